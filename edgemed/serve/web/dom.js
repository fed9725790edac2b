// Small parts that every view of the page uses. Text goes in as text, never as markup.

import { put } from "./words.js";

const SEEN_MS = 6000;

export const byId = (id) => document.getElementById(id);

export function element(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content.filter((each) => each !== "" && each !== null));
  return made;
}

export function button(key, onClick, className = "", values = {}) {
  const made = put(element("button", className), key, values);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

const SHAPES = {
  check: "M3 9l4 4 7-9",
  warning: "M8.5 1.5l7.5 13.5h-15zM8.5 6v4.5M8.5 12.4v.8",
  question: "M5 5.5a3.5 3.5 0 1 1 5 3.2c-1.2.6-1.5 1.2-1.5 2.3M8.5 14v.8",
  back: "M6.5 3L2.5 7l4 4M2.5 7h7.5a4 4 0 0 1 4 4v3",
  saved: "M8.5 2a6.5 6.5 0 1 0 .01 0M8.5 4.8v4l2.8 1.6",
};

// Drawn, because a clinic's laptop may lack the letter; silent, because words stand beside it.
export function icon(shape) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [name, value] of [["viewBox", "0 0 17 17"], ["aria-hidden", "true"], ["class", "icon"]]) {
    svg.setAttribute(name, value);
  }
  path.setAttribute("d", SHAPES[shape]);
  svg.append(path);
  return svg;
}

// To screen readers; `seen`: to eyes as well, for some seconds.
export function announce(text, seen = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("unseen", !seen);
  clearTimeout(hiding);
  if (seen) hiding = setTimeout(() => byId("status").classList.add("unseen"), SEEN_MS);
}

let hiding = 0;
let lastId = 0;

export function newId(word) {
  lastId += 1;
  return `${word}-${lastId}`;
}

// A screen reader gets whole sentences, not every token.
export class Speaker {
  constructor(language) {
    this.rest = "";
    this.in(language);
    byId("spoken").replaceChildren();
  }
  in(language) {
    byId("spoken").lang = language;
  }
  add(text) {
    this.rest += text;
    const end = /[.!?:]\s|\n/g;
    let cut = 0;
    while (end.exec(this.rest)) cut = end.lastIndex;
    if (cut) this.say(this.rest.slice(0, cut));
    this.rest = this.rest.slice(cut);
  }
  finish() {
    this.say(this.rest);
    this.rest = "";
  }
  say(text) {
    if (text.trim()) byId("spoken").append(element("p", "", text.trim()));
  }
}

// A line must never end between a number and its unit: "180" and "mg" belong together.
const UNITS = "[mcnk]?g|mcg|µg|[md]?L|ml|IU|units?|mmol|%|°C|degrees|minutes?|hours?|days?|weeks?|months?|years?"
  + "|drops?|puffs?|tablets?|doses?";
const BEFORE_UNIT = new RegExp(`(\\d) (?=(?:${UNITS})(?![A-Za-z]))`, "g");

// One character for one: places in the text stay what they are.
export function withUnitsKept(text) {
  return text.replace(BEFORE_UNIT, "$1\u00a0");
}
