// The interface's own words in the language that was chosen; the texts lie in words/, one file for each language.
// A text that was put into the page is bound to it: another choice of language writes it anew, wherever it stands.

import en from "./words/en.js";

export const LANGUAGES = ["en", "es", "fr", "sw"];

const KEPT_AS = "edgemed.language"; // the choice alone; nothing of a patient
const CLINICAL = "clinical."; // texts of this kind carry the English beside them: no clinician reviewed the others
const LOCALES = { en: "en-GB" }; // day before month, which no one of our readers turns round

let spoken = { code: "en", texts: en };
const bound = new WeakMap(); // node or its attribute -> what writes it again
const listeners = [];

export const interfaceLanguage = () => spoken.code;
const locale = () => LOCALES[spoken.code] || spoken.code;

// ---- Texts ----

function pieces(key, values) {
  const found = spoken.texts[key] ?? en[key] ?? key;
  const form = typeof found === "string" ? found
    : found[new Intl.PluralRules(locale()).select(values.n)] ?? found.other;
  return form.split(/\{(\w+)\}/).map((part, index) => (index % 2 ? valueOf(values[part]) : part));
}

function valueOf(value) {
  if (typeof value === "function") return value();
  return typeof value === "number" ? number(value) : value ?? "";
}

// The text itself, for what is spoken or copied.
export function t(key, values = {}) {
  return pieces(key, values).map((piece) => piece.textContent ?? piece).join("");
}

// As `t`, a clinical text with its English behind it.
export function withEnglish(key, values = {}, joined = (own, english) => `${own} [EN: ${english}]`) {
  if (spoken.code === "en" || !key.startsWith(CLINICAL)) return t(key, values);
  return joined(t(key, values), inEnglish(() => t(key, values)));
}

function inEnglish(work) {
  const before = spoken;
  spoken = { code: "en", texts: en };
  try {
    return work();
  } finally {
    spoken = before;
  }
}

// Puts a text into a node and keeps it right when the language changes. Values: texts, numbers, nodes, or functions.
export function put(node, key, values = {}) {
  return bind(node, "", () => {
    const own = pieces(key, values);
    node.lang = spoken.code; // it may stand in the midst of another language
    if (spoken.code === "en" || !key.startsWith(CLINICAL)) {
      node.replaceChildren(...own);
      return;
    }
    const english = document.createElement("span");
    english.className = "english";
    english.lang = "en";
    english.append(...inEnglish(() => pieces(key, values)).map((piece) => piece.cloneNode?.(true) ?? piece));
    node.replaceChildren(...own, " ", english);
  });
}

export function putLabel(node, attribute, key, values = {}) {
  return bind(node, attribute, () => node.setAttribute(attribute, t(key, values)));
}

export function worded(name, className, key, values) {
  const made = document.createElement(name);
  if (className) made.className = className;
  return put(made, key, values);
}

// A text of the server's: in the chosen language where it is one of ours, else as it is, in English.
export function fromServer(name, className, text) {
  const key = ["clinical.notice", "clinical.demo"].find((each) => en[each] === text);
  if (key) return worded(name, className, key);
  const made = document.createElement(name);
  if (className) made.className = className;
  made.lang = "en";
  made.textContent = text;
  return made;
}

// `write` is called now, and again in every language chosen later.
export function bind(node, what, write) {
  const writers = bound.get(node) || {};
  writers[what] = write;
  bound.set(node, writers);
  node.setAttribute("data-worded", "");
  write();
  return node;
}

// What the HTML leaves empty: data-t is a text's key, data-t-ATTRIBUTE that of an attribute.
export function fillPage() {
  for (const node of document.querySelectorAll("[data-t]")) put(node, node.dataset.t);
  for (const [attribute, name] of [["aria-label", "tLabel"], ["placeholder", "tPlaceholder"]]) {
    for (const node of document.querySelectorAll("*")) {
      if (node.dataset[name]) putLabel(node, attribute, node.dataset[name]);
    }
  }
}

// ---- The choice ----

export function onLanguage(listener) {
  listeners.push(listener);
}

// False where the texts could not be had; then all stays as it was.
export async function useLanguage(code, keep = false) {
  let texts = en;
  try {
    if (code !== "en") texts = (await import(`./words/${code}.js`)).default;
  } catch {
    return false;
  }
  spoken = { code, texts };
  if (keep) store(code);
  document.documentElement.lang = code;
  for (const node of document.querySelectorAll("[data-worded]")) {
    for (const write of Object.values(bound.get(node) || {})) write();
  }
  for (const listener of listeners) listener();
  return true;
}

export function firstLanguage() {
  const wanted = [stored(), ...(navigator.languages || [])].map((each) => String(each).slice(0, 2).toLowerCase());
  return wanted.find((each) => LANGUAGES.includes(each)) || "en";
}

function store(code) {
  try {
    localStorage.setItem(KEPT_AS, code);
  } catch {
    // a browser that keeps nothing asks again next time
  }
}

function stored() {
  try {
    return localStorage.getItem(KEPT_AS);
  } catch {
    return null;
  }
}

export function languageChoice(select) {
  select.replaceChildren(...LANGUAGES.map((code) => {
    const option = document.createElement("option");
    const name = new Intl.DisplayNames(code, { type: "language" }).of(code);
    option.textContent = name[0].toUpperCase() + name.slice(1);
    option.value = code;
    option.lang = code;
    return option;
  }));
  select.addEventListener("change", async () => {
    if (!await useLanguage(select.value, true)) select.value = spoken.code;
  });
  onLanguage(() => { select.value = spoken.code; });
}

// ---- Numbers, times and lists, as the language writes them ----

export function number(value, digits = 1) {
  return new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value);
}

export function percent(value) {
  return new Intl.NumberFormat(locale(), { style: "percent" }).format(value / 100);
}

// With the month as a word: no one takes 3 April for 4 March.
export function time(made) {
  const date = new Date(typeof made === "number" && made < 1e11 ? made * 1000 : made); // seconds since 1970, or ISO
  if (Number.isNaN(date.getTime())) return String(made);
  return new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" }).format(date);
}

export function duration(seconds) {
  const minutes = Math.round(seconds / 60);
  const hours = Math.round(minutes / 60);
  if (seconds < 90) return unit(seconds, "second");
  if (minutes < 90) return unit(minutes, "minute");
  return hours < 36 ? unit(hours, "hour") : unit(Math.round(hours / 24), "day");
}

function unit(value, name) {
  return new Intl.NumberFormat(locale(), { style: "unit", unit: name, unitDisplay: "long" }).format(value);
}

export function listed(words, type = "conjunction") {
  return new Intl.ListFormat(locale(), { type }).format(words);
}
