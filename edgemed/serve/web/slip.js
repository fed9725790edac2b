// An answer to take away: a referral slip on paper, or a text on the clipboard. Both carry the mark of every number.

import { button, byId, element } from "./dom.js";
import { kindOf, urgencyOf, wordsOf } from "./medical.js";
import { againstOf, contradicting, markOf, piecesOf } from "./numbers.js";
import { fromServer, listed, time, withEnglish, worded, t } from "./words.js";

const BY_HAND = ["slip.patient", "slip.age", "slip.facility", "slip.referred_to"];
const BY_HAND_BELOW = ["slip.signature", "slip.signed"];

// ---- What both say ----

// Sources get numbers, in the order of the answer.
function sourcesOf(numbers) {
  return [...new Set(numbers.map((number) => number.source).filter(Boolean))];
}

function markWords(verdict, source, sources) {
  const place = sources.indexOf(source) + 1;
  const both = (own, english) => `${own} / ${english}`; // it stands in brackets already
  return () => withEnglish(markOf(verdict), {}, both) + (place ? ` ${place}` : "");
}

function madeValues(turn) {
  const { model, version, madeAt, medical } = turn;
  return { model, version: version || "", time: () => time(medical.cached ? medical.cached.made : madeAt) };
}

const signName = (sign) => (sign.sign === "unclear" ? "" : ` (${sign.sign.replace(/-/g, " ")})`);

// ---- The slip ----

// Shows it in the place of the questions; `back` is called when it is left.
export function showSlip(turn, server, back) {
  const page = byId("slip");
  const sources = sourcesOf(turn.medical.numbers);
  page.replaceChildren(
    toolbar(back),
    worded("h2", "", "slip.title"),
    worded("p", "warn", "slip.machine"),
    worded("p", "warn", "clinical.decides"),
    ...(server.demo ? [fromServer("p", "warn", server.demo_notice)] : []),
    blanks(BY_HAND),
    ...earlier(turn.history),
    ...section("slip.question", said("p", turn.question, turn.language)),
    ...section("slip.category", worded("p", "", ...kindOf(turn.medical)), worded("p", "", urgencyOf(turn.medical))),
    ...section("slip.danger", dangerList(turn.medical)),
    ...warnings(turn),
    ...section("slip.answer", answer(turn, sources)),
    ...section("slip.numbers", numberTable(turn.medical.numbers, sources), ...sourceLines(sources)),
    worded("p", "made", "slip.made", madeValues(turn)),
    fromServer("p", "", server.notice),
    worded("p", "not-reviewed", "page.not_reviewed"),
    blanks(BY_HAND_BELOW),
  );
}

function toolbar(back) {
  const print = button("slip.print", () => (window.print ? window.print() : cannot.hidden = false), "main-button");
  const cannot = worded("p", "problem", "slip.no_printing");
  cannot.hidden = true;
  const bar = element("div", "toolbar", print, button("slip.back", back, "back"), worded("p", "", "slip.by_hand"), cannot);
  return bar;
}

function section(key, ...content) {
  return [worded("h3", "", key), ...content];
}

function said(name, words, language) {
  const made = element(name, "said", words);
  made.lang = language;
  return made;
}

function blanks(keys) {
  return element("div", "blanks", ...keys.map((key) => element("p", "blank", worded("span", "", key))));
}

function earlier(history) {
  if (!history.length) return [];
  return section("slip.earlier", element("ul", "", ...history.map((turn) => said("li", turn.question, turn.language))));
}

function dangerList(medical) {
  if (!medical.danger_signs.length) {
    return worded("p", "", medical.danger_checked ? "slip.danger_none" : "clinical.not_checked");
  }
  return element("ul", "", ...medical.danger_signs.map((sign) => {
    const name = element("span", "", signName(sign));
    name.lang = "en";
    return element("li", "", `“${sign.words}”`, name);
  }));
}

function warnings(turn) {
  const against = contradicting(turn.medical.numbers);
  const lines = against.map((number) => worded("p", "warn", ...againstOf(number)));
  if (against.length) lines.unshift(worded("p", "warn", "clinical.do_not_use", { n: against.length }));
  for (const number of turn.medical.asked_numbers) {
    lines.push(worded("p", "warn", "clinical.asked_number", { number: number.text }));
  }
  if (!turn.complete) lines.unshift(worded("p", "warn", "slip.incomplete"));
  return lines.length ? section("slip.warnings", ...lines) : [];
}

function answer(turn, sources) {
  const made = said("p", "", turn.answerLanguage);
  made.append(...piecesOf(turn.text, turn.medical.numbers).map((piece) => {
    if (typeof piece === "string") return piece;
    const mark = worded("span", `paper-mark ${piece.verdict}`, "slip.mark_is", { mark: markWords(piece.verdict, piece.source, sources) });
    return element("span", "", element("b", "", piece.words), " ", mark);
  }));
  return made;
}

function numberTable(numbers, sources) {
  if (!numbers.length) return worded("p", "", "slip.no_numbers");
  const head = element("tr", "", ...["slip.number", "slip.mark", "slip.source"].map((key) => {
    const cell = worded("th", "", key);
    cell.scope = "col";
    return cell;
  }));
  const rows = numbers.map((number) => element("tr", "", element("td", "", number.text),
    element("td", "", worded("span", "", markOf(number.verdict))), sourceCell(number, sources)));
  return element("table", "", element("thead", "", head), element("tbody", "", ...rows));
}

function sourceCell(number, sources) {
  if (!number.source) return worded("td", "", "slip.no_source");
  const cell = element("td", "", String(sources.indexOf(number.source) + 1));
  if (number.source_says) cell.append(". ", worded("span", "", "number.says", { said: number.source_says }));
  return cell;
}

function sourceLines(sources) {
  return sources.map((source, index) => worded("p", "", "slip.source_is", { place: index + 1, source }));
}

// ---- The clipboard ----

export function asText(turn, server) {
  const { medical } = turn;
  const sources = sourcesOf(medical.numbers);
  const against = contradicting(medical.numbers);
  const words = piecesOf(turn.text, medical.numbers).map((piece) => (typeof piece === "string" ? piece
    : `${piece.words} [${markWords(piece.verdict, piece.source, sources)()}]`)).join("");
  const lines = [
    `${t("slip.question")}: ${turn.question}`,
    [t(...kindOf(medical)), withEnglish(urgencyOf(medical))].join(" "),
    medical.danger_signs.length ? `${withEnglish("clinical.danger")} ${listed(wordsOf(medical.danger_signs))}` : "",
    turn.complete ? "" : t("slip.incomplete"),
    against.length ? withEnglish("clinical.do_not_use", { n: against.length }) : "",
    ...against.map((number) => withEnglish(...againstOf(number))),
    ...medical.asked_numbers.map((number) => withEnglish("clinical.asked_number", { number: number.text })),
    "",
    words.replaceAll("\u00a0", " "),
    "",
    ...sources.map((source, index) => t("slip.source_is", { place: index + 1, source })),
    t("slip.machine"),
    withEnglish("clinical.decides"),
    server.demo ? server.demo_notice : "",
    t("slip.made", madeValues(turn)),
  ];
  return lines.filter((line, index) => line || lines[index - 1]).join("\n");
}

// True when it is there. A page that comes over plain http from another computer has no clipboard of its own.
export async function copyText(text) {
  try {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(text);
      return true;
    }
  } catch {
    // the browser may ask its user and be told no; the older way is tried
  }
  const focused = document.activeElement;
  const box = element("textarea", "unseen");
  box.value = text;
  document.body.append(box);
  box.select();
  try {
    return document.execCommand("copy");
  } finally {
    box.remove();
    focused?.focus?.();
  }
}
