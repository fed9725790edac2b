// What the medical layer says of a question: danger signs, kind, notes on words, a saved answer.

import { button, duration, element, icon, listed, withUnitsKept } from "./dom.js";

// On unseen sentences the word lists missed about one danger in ten: their silence must not reassure anybody.
export const NONE_FOUND = "No danger sign found; the word lists can miss some, so look for yourself.";
export const NOT_CHECKED = "Danger signs are not checked in this language.";

const SHOWN_NOTES = 6;

export function dangerBanner(signs) {
  const box = element("div", "danger");
  box.setAttribute("role", "alert");
  box.append(element("p", "title", icon("warning"),
    "Possible danger sign: refer at once / follow your emergency protocol."));
  const words = [...new Set(signs.map((sign) => `“${sign.words}”`))];
  box.append(element("p", "", `Found in the question: ${listed(words)}. This is not a diagnosis.`));
  return box;
}

export function kindLine(medical) {
  const subclass = medical.subclass ? ` (${plain(medical.subclass)})` : "";
  const found = medical.danger_signs.length || !medical.danger_checked ? "" : ` ${NONE_FOUND}`;
  return element("p", "kind", `Understood as: ${plain(medical.category)}${subclass}.${found}`);
}

function plain(slug) {
  return slug.replace(/[_-]/g, " ");
}

// Beside the question, whose own words stay as they are. What needs a person's eye comes first.
export function noteList(notes) {
  const urgent = (note) => Number(Boolean(note.warning || note.ambiguous));
  const ordered = [...notes].sort((a, b) => urgent(b) - urgent(a));
  const box = element("div", "notes");
  const shown = Math.max(SHOWN_NOTES, ordered.filter(urgent).length);
  box.append(listOf(ordered.slice(0, shown)));
  const rest = ordered.slice(shown);
  if (rest.length) box.append(element("details", "", element("summary", "", `${rest.length} more`), listOf(rest)));
  return box;
}

function listOf(notes) {
  const list = element("ul", "");
  list.setAttribute("aria-label", "Notes on words of the question");
  list.append(...notes.map(noteItem));
  return list;
}

function noteItem(note) {
  const surface = element("b", "", note.surface);
  if (note.ambiguous) {
    const warning = note.warning ? `. Careful: ${note.warning}` : "";
    return element("li", "care", icon("warning"), surface,
      ` can mean ${listed(note.meanings, "or")}: write it out${warning}.`);
  }
  const meaning = `: ${note.meanings.join(", ")}`;
  if (!note.warning) return element("li", "", surface, meaning);
  return element("li", "care", icon("warning"), surface, `${meaning}. Careful: ${note.warning}.`);
}

// Numbers of the question that a checked source gives otherwise: the answer may take them over without a word.
export function askedNumbers(numbers) {
  const box = element("div", "asked-numbers care");
  box.setAttribute("role", "alert");
  for (const number of numbers) {
    const said = number.source_says ? ` It says: ${withUnitsKept(number.source_says)}.` : "";
    box.append(element("p", "", icon("warning"), "Your ", element("b", "", withUnitsKept(number.text)),
      ` is not what a checked source says.${said} `, element("span", "origin", `Source: ${number.source}`)));
  }
  return box;
}

export function savedLine(cached, again) {
  const time = element("time", "", timeOf(cached.made));
  time.dateTime = cached.made;
  const line = element("p", "", icon("saved"), "Saved answer, made ", time, ` (${cached.age_s < 60 ? "just now" : `${duration(cached.age_s)} ago`})`);
  return element("div", "saved", line, button("Ask again anew", again));
}

// With the month as a word: no one takes 3 April for 4 March.
function timeOf(made) {
  const date = new Date(made);
  if (Number.isNaN(date.getTime())) return made;
  return new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" }).format(date);
}
