// The numbers of a finished answer, each with what stands behind it: by icon and word, never by colour alone.

import { element, icon, newId, withUnitsKept } from "./dom.js";
import { listed, t, worded } from "./words.js";

const ICONS = { contradicts_source: "warning", unsupported: "question", repeated_from_question: "back", from_source: "check" };

const SHORT = 16;

// A verdict that this page does not know supports nothing.
const known = (verdict) => (verdict in ICONS ? verdict : "unsupported");

// Key of the words of a verdict.
export const markOf = (verdict) => `clinical.mark_${known(verdict)}`;

// The answer cut into pieces: texts, and groups {words, verdict, source, says}. Places are code points; JavaScript
// counts UTF-16 units.
export function piecesOf(text, numbers) {
  const points = Array.from(withUnitsKept(text));
  const pieces = [];
  let at = 0;
  for (const group of groupsOf(points, numbers)) {
    pieces.push(points.slice(at, group.start).join(""), { ...group, words: points.slice(group.start, group.end).join("") });
    at = group.end;
  }
  pieces.push(points.slice(at).join(""));
  pieces[0] = pieces[0].trimStart();
  return pieces;
}

export function markedAnswer(text, numbers) {
  return piecesOf(text, numbers).map((piece) => (typeof piece === "string" ? piece : mark(piece)));
}

// Neighbours with the same verdict and source get one mark: "15 mg/kg every 6 hours".
function groupsOf(points, numbers) {
  const groups = [];
  for (const number of numbers) {
    const last = groups.at(-1);
    const before = last ? last.end : 0;
    if (number.start < before || number.end > points.length || number.start >= number.end) continue;
    const gap = points.slice(before, number.start).join("");
    const same = last && last.verdict === number.verdict && last.source === number.source;
    if (same && /^,?[\s\u00a0]?$/.test(gap)) {
      last.end = number.end;
      if (number.source_says && !last.says.includes(number.source_says)) last.says.push(number.source_says);
    } else {
      const says = number.source_says ? [number.source_says] : [];
      groups.push({ start: number.start, end: number.end, verdict: number.verdict, source: number.source, says });
    }
  }
  return groups;
}

function mark(group) {
  const tip = element("span", "tip", ...explained(group));
  tip.id = newId("tip");
  tip.hidden = true;
  // A span and no button: the text of a button is left out when an answer is copied.
  // Whatever its unit; a short one stays whole: "2 to 59 months".
  const kept = group.words.length <= SHORT ? group.words.replaceAll(" ", "\u00a0")
    : group.words.replace(/(\d) /g, "$1\u00a0");
  const tag = element("span", "tag", " ", icon(ICONS[known(group.verdict)]), worded("span", "", markOf(group.verdict)));
  const made = element("span", `number ${group.verdict}`, kept, tag);
  made.tabIndex = 0;
  made.setAttribute("role", "button");
  made.setAttribute("aria-describedby", tip.id);
  const open = () => {
    tip.hidden = false;
    makeRoom(tip);
  };
  made.addEventListener("focus", open);
  made.addEventListener("click", open);
  made.addEventListener("blur", () => { tip.hidden = true; });
  made.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !tip.hidden) {
      tip.hidden = true;
      event.stopPropagation();
    } else if (event.key === "Enter" || event.key === " ") {
      tip.hidden = !tip.hidden;
      event.preventDefault();
    }
  });
  return element("span", "", made, tip);
}

// So that it can be scrolled out from under the question box. The room stays: nothing may move below a finger.
function makeRoom(tip) {
  const article = tip.closest("article");
  const missing = tip.getBoundingClientRect().bottom - article.getBoundingClientRect().bottom;
  const room = parseFloat(article.style.paddingBottom) || 0;
  if (missing > 0) article.style.paddingBottom = `${Math.ceil(room + missing) + 8}px`;
  tip.scrollIntoView({ block: "nearest" });
  const hidden = tip.getBoundingClientRect().bottom - document.getElementById("form").getBoundingClientRect().top;
  if (hidden > 0) document.documentElement.scrollTop += hidden + 8; // the question box lies over the page's end
}

function explained({ verdict, source, says }) {
  const words = worded("span", "", `clinical.tip_${known(verdict)}`, { source });
  return says.length ? [words, " ", worded("span", "", "number.says", { said: says.join("; ") })] : [words];
}

export const contradicting = (numbers) => numbers.filter((number) => number.verdict === "contradicts_source");

// Above the answer, for every number that says something else than its source; null when there is none.
export function contradictions(numbers) {
  const against = contradicting(numbers);
  if (!against.length) return null;
  const box = element("div", "danger");
  box.setAttribute("role", "alert");
  box.append(element("p", "title", icon("warning"), worded("span", "", "clinical.do_not_use", { n: against.length })));
  const list = element("ul", "");
  for (const number of against) list.append(element("li", "", worded("span", "", ...againstOf(number)), " ", originOf(number)));
  box.append(list);
  return box;
}

// Key and values of the text on one contradicting number.
export function againstOf(number) {
  const values = { number: element("b", "", withUnitsKept(number.text)), said: withUnitsKept(number.source_says || "") };
  return [number.source_says ? "clinical.against" : "clinical.against_otherwise", values];
}

function originOf(number) {
  return number.source ? worded("span", "origin", "number.source", { source: number.source }) : "";
}

// Key and values of "Numbers in this answer: 2 from source, 1 without a source (check)."; null where there are none.
export function summaryOf(counts) {
  const found = Object.keys(ICONS).filter((verdict) => counts[verdict]);
  const each = (verdict) => t(`clinical.count_${verdict}`, { n: counts[verdict] });
  return found.length ? ["clinical.numbers", { counts: () => listed(found.map(each)) }] : null;
}
