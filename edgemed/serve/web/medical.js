// What the medical layer says of a question: category and urgency, danger signs, notes on words, a saved answer.

import { button, element, icon, withUnitsKept } from "./dom.js";
import { duration, listed, put, putLabel, t, time, worded } from "./words.js";

const SHOWN_NOTES = 6;

export function dangerBanner(signs) {
  const box = element("div", "danger");
  box.setAttribute("role", "alert");
  box.append(element("p", "title", icon("warning"), worded("span", "", "clinical.danger")));
  box.append(worded("p", "", "clinical.danger_found", { words: () => listed(wordsOf(signs)) }));
  return box;
}

// As they stand in the question.
export function wordsOf(signs) {
  return [...new Set(signs.map((sign) => `“${sign.words}”`))];
}

export function kindLines(medical) {
  return [worded("p", "kind", ...kindOf(medical)), worded("p", "urgency", urgencyOf(medical))];
}

// Key and values of the text on the category.
export function kindOf(medical) {
  const category = () => named("category", medical.category);
  if (!medical.subclass) return ["kind.line", { category }];
  return ["kind.with_subclass", { category, subclass: () => named("subclass", medical.subclass) }];
}

// Our word for a slug; a clinic's own language file may have a subclass that we have no word for.
function named(family, slug) {
  const key = family === "category" ? `category.${slug}` : `subclass.${slug}`;
  const word = t(key);
  return word === key ? slug.replace(/[_-]/g, " ") : word;
}

// On unseen sentences the word lists missed about one danger in ten: their silence must not reassure anybody.
export function urgencyOf(medical) {
  if (medical.danger_signs.length) return "clinical.urgency_danger";
  if (!medical.danger_checked) return "clinical.urgency_unknown";
  return medical.category === "emergency" ? "clinical.urgency_emergency" : "clinical.urgency_none";
}

// Beside the question, whose own words stay as they are. What needs a person's eye comes first.
export function noteList(notes) {
  const urgent = (note) => Number(Boolean(note.warning || note.ambiguous));
  const ordered = [...notes].sort((a, b) => urgent(b) - urgent(a));
  const box = element("div", "notes");
  const shown = Math.max(SHOWN_NOTES, ordered.filter(urgent).length);
  box.append(listOf(ordered.slice(0, shown)));
  const rest = ordered.slice(shown);
  if (rest.length) {
    box.append(element("details", "", worded("summary", "", "note.more", { n: rest.length }), listOf(rest)));
  }
  return box;
}

function listOf(notes) {
  const list = putLabel(element("ul", ""), "aria-label", "note.list");
  list.append(...notes.map(noteItem));
  return list;
}

// Meanings and warnings come from the server, in English.
function noteItem(note) {
  const english = (words) => {
    const made = element("span", "", words);
    made.lang = "en";
    return made;
  };
  const values = { word: element("b", "", note.surface), warning: english(note.warning) };
  if (!note.ambiguous) {
    values.meanings = english(listed(note.meanings, "unit"));
    if (!note.warning) return worded("li", "", "note.meaning", values);
    return element("li", "care", icon("warning"), worded("span", "", "note.careful", values));
  }
  values.meanings = () => listed(note.meanings, "disjunction");
  const key = note.warning ? "clinical.note_ambiguous_careful" : "clinical.note_ambiguous";
  return element("li", "care", icon("warning"), worded("span", "", key, values));
}

// Numbers of the question that a checked source gives otherwise: the answer may take them over without a word.
export function askedNumbers(numbers) {
  const box = element("div", "asked-numbers care");
  box.setAttribute("role", "alert");
  for (const number of numbers) {
    const line = element("p", "", icon("warning"), worded("span", "", "clinical.asked_number",
      { number: element("b", "", withUnitsKept(number.text)) }), " ");
    if (number.source_says) line.append(worded("span", "", "number.says", { said: withUnitsKept(number.source_says) }), " ");
    line.append(worded("span", "origin", "number.source", { source: number.source }));
    box.append(line);
  }
  return box;
}

export function savedLine(cached, again) {
  const made = () => {
    const node = element("time", "", time(cached.made));
    node.dateTime = cached.made;
    return node;
  };
  const key = cached.age_s < 60 ? "answer.saved_now" : "answer.saved";
  const words = put(element("span", ""), key, { time: made, age: () => duration(cached.age_s) });
  return element("div", "saved", element("p", "", icon("saved"), words), button("answer.anew", again));
}
