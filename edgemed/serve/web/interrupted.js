// Questions that were cut off by a power cut or a crash: shown on top, to be asked again; never with half an answer.

import { announce, button, byId, element } from "./dom.js";
import { clearInterrupted, interrupted } from "./session.js";
import { t, time, worded } from "./words.js";

// `ask(question)` asks one again.
export async function showInterrupted(ask) {
  const found = await interrupted();
  const box = byId("interrupted");
  box.hidden = !found.length;
  if (!found.length) return;
  const left = new Set(found);
  const done = (each, row) => {
    left.delete(each);
    row.remove();
    box.hidden = !left.size;
    if (!left.size) clearInterrupted(found.map(({ id }) => id));
  };
  const dismiss = button("interrupted.dismiss", () => {
    box.hidden = true;
    clearInterrupted(found.map(({ id }) => id));
    announce(t("interrupted.dismissed"));
    byId("question").focus();
  });
  const rows = found.map((each) => rowOf(each, ask, done));
  box.replaceChildren(worded("h2", "", "interrupted.title"), worded("p", "", "interrupted.why"),
    element("ul", "", ...rows), dismiss);
  announce(t("interrupted.announce", { n: found.length }));
}

function rowOf(each, ask, done) {
  const row = element("li", "");
  if (each.question) row.append(element("p", "said", each.question));
  row.append(worded("p", "asked", "interrupted.asked", { time: () => time(each.asked) }));
  if (!each.question) row.append(worded("p", "", "interrupted.lost"));
  else row.append(button("answer.again", () => {
    if (ask(each.question)) done(each, row);
    byId("question").focus();
  }));
  return row;
}
