// The numbers of a finished answer, each with what stands behind it: by icon and word, never by colour alone.

import { element, icon, listed, newId, withUnitsKept } from "./dom.js";

const VERDICTS = {
  contradicts_source: { icon: "warning", tag: "contradicts source", count: "contradicting the source" },
  unsupported: { icon: "question", tag: "no source: check", count: "without a source (check)" },
  repeated_from_question: { icon: "back", tag: "your number, no source", count: "from your question (no source)" },
  from_source: { icon: "check", tag: "from source", count: "from source" },
};

// The answer cut into pieces of text and marks. Places are code points; JavaScript counts UTF-16 units.
export function markedAnswer(text, numbers) {
  const points = Array.from(withUnitsKept(text));
  const pieces = [];
  let at = 0;
  for (const group of groupsOf(points, numbers)) {
    pieces.push(points.slice(at, group.start).join(""), mark(points.slice(group.start, group.end).join(""), group));
    at = group.end;
  }
  pieces.push(points.slice(at).join(""));
  if (pieces.length) pieces[0] = pieces[0].trimStart();
  return pieces;
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

function mark(words, group) {
  const look = VERDICTS[group.verdict] || VERDICTS.unsupported;
  const tip = element("span", "tip", explained(group));
  tip.id = newId("tip");
  tip.hidden = true;
  // A span and no button: the text of a button is left out when an answer is copied.
  const kept = words.replace(/(\d) /g, "$1\u00a0"); // whatever its unit
  const made = element("span", `number ${group.verdict}`, kept,
    element("span", "tag", " ", icon(look.icon), look.tag));
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
  const said = says.join("; ");
  if (verdict === "from_source") return `From source: ${source}.${said ? ` It says: ${said}.` : ""}`;
  if (verdict === "contradicts_source") return `Contradicts its source: ${source}.${said ? ` It says: ${said}.` : ""}`;
  if (verdict === "repeated_from_question") {
    return "Your number, repeated from the question. No source supports it: check it before you use it.";
  }
  return "No source for this number: check it before you use it.";
}

// Above the answer, for every number that says something else than its source; null when there is none.
export function contradictions(numbers) {
  const against = numbers.filter((number) => number.verdict === "contradicts_source");
  if (!against.length) return null;
  const box = element("div", "danger");
  box.setAttribute("role", "alert");
  const many = against.length > 1;
  box.append(element("p", "title", icon("warning"), many
    ? `Do not use: ${against.length} numbers contradict their source.` : "Do not use: a number contradicts its source."));
  const list = element("ul", "");
  for (const number of against) {
    const said = number.source_says ? `the source says ${number.source_says}` : "the source says otherwise";
    list.append(element("li", "", element("b", "", withUnitsKept(number.text)), `: ${withUnitsKept(said)}. `,
      number.source ? element("span", "origin", `Source: ${number.source}`) : ""));
  }
  box.append(list);
  return box;
}

// "Numbers in this answer: 2 from source, 1 without a source: check."; "" where there are none.
export function summary(counts) {
  const parts = Object.keys(VERDICTS).filter((verdict) => counts[verdict])
    .map((verdict) => `${counts[verdict]} ${VERDICTS[verdict].count}`);
  return parts.length ? `Numbers in this answer: ${listed(parts)}.` : "";
}
