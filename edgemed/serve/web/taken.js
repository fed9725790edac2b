// Calculations that go with the next question: the numbers of its answer are checked against them.

import { announce, button, byId, element } from "./dom.js";
import { putLabel, t } from "./words.js";

const MOST = 8;

let taken = []; // {name, inputs, words}

// One more, said aloud; or why not.
export function take(calculation) {
  const key = (each) => JSON.stringify([each.name, each.inputs]);
  if (taken.length >= MOST) {
    announce(t("form.most_calculations", { n: MOST }));
    return;
  }
  if (!taken.some((each) => key(each) === key(calculation))) taken.push(calculation);
  show();
  announce(t("form.taken_along", { calculation: calculation.words }));
}

// What was taken along, and nothing is left.
export function handOver() {
  const handed = taken;
  taken = [];
  show();
  return handed;
}

function show() {
  byId("taken").hidden = !taken.length;
  byId("chips").replaceChildren(...taken.map((calculation) => {
    const remove = button("form.remove", () => {
      taken = taken.filter((each) => each !== calculation);
      show();
      announce(t("form.removed"));
      byId("question").focus();
    });
    putLabel(remove, "aria-label", "form.remove_this", { calculation: calculation.words });
    return element("li", "chip", element("span", "", calculation.words), remove);
  }));
}
