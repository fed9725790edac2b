// The fields of a calculator's form, made from what the server says of them.

import { element, icon, newId } from "./dom.js";
import { put, t, worded } from "./words.js";

const FEW_CHOICES = 6;
const NOT_GIVEN = ""; // the value of a choice that was left open

// A field: {name, node, read() -> {value} or {problem}, fault(words), focus()}. Nothing clinical is filled in.
export function fieldOf(input) {
  if (input.kind === "choice") return choiceField(input, input.choices.map((choice) => [choice, () => choice]));
  if (input.kind === "boolean") return choiceField(input, [["yes", (node) => put(node, "field.yes")], ["no", (node) => put(node, "field.no")]], (value) => value === "yes");
  return boxField(input);
}

function labelOf(input) {
  const unit = input.unit ? ` (${input.unit})` : "";
  return [`${input.label}${unit}`, ...(input.required ? [] : [" ", worded("span", "optional", "field.optional")])];
}

function hintOf(input) {
  const ranged = input.kind === "number" && input.maximum !== null && !/\d to \d/.test(input.note);
  const values = { low: String(input.minimum ?? 0), high: String(input.maximum), unit: input.unit };
  const range = ranged ? worded("span", "", "field.range", values) : "";
  const hint = element("p", "hint", range, range && input.note ? "; " : "", input.note);
  hint.hidden = !ranged && !input.note;
  return hint;
}

function faultLine() {
  const line = element("p", "fault");
  line.hidden = true;
  return line;
}

function describe(node, ...others) {
  for (const other of others) other.id = newId("about");
  node.setAttribute("aria-describedby", others.map((other) => other.id).join(" "));
}

function boxField(input) {
  const box = element("input", "");
  box.id = newId("field");
  box.type = input.kind === "date" ? "date" : "text";
  if (input.kind === "number") box.inputMode = "decimal";
  box.autocomplete = "off";
  box.spellcheck = false;
  if (input.required) box.setAttribute("aria-required", "true");
  if (input.default !== null) box.value = String(input.default);
  const label = element("label", "", ...labelOf(input));
  label.htmlFor = box.id;
  const [hint, line] = [hintOf(input), faultLine()];
  describe(box, line, hint);
  return {
    name: input.name,
    node: element("div", "field", label, hint, box, line),
    read: () => (input.kind === "date" ? readDate(box) : readNumber(box.value.trim())),
    fault: (words) => showFault(box, line, words),
    focus: () => box.focus(),
  };
}

function choiceField(input, choices, valueOf = (value) => value) {
  const shown = input.required ? choices : [...choices, [NOT_GIVEN, (node) => put(node, "field.not_given")]];
  const preset = input.default === null ? NOT_GIVEN : String(input.default);
  const group = shown.length > FEW_CHOICES ? selectOf(shown, preset) : radiosOf(shown, preset, input);
  const set = element("fieldset", "field", element("legend", "", ...labelOf(input)));
  const [hint, line] = [hintOf(input), faultLine()];
  describe(set, line, hint);
  set.append(hint, ...group.nodes, line);
  return {
    name: input.name,
    node: set,
    read: () => ({ value: group.chosen() === NOT_GIVEN ? null : valueOf(group.chosen()) }),
    fault: (words) => showFault(set, line, words),
    focus: () => group.first.focus(),
  };
}

function radiosOf(choices, preset, input) {
  const name = newId("choice");
  const boxes = [];
  const nodes = choices.map(([value, words]) => {
    const box = element("input", "");
    box.type = "radio";
    box.name = name;
    box.value = value;
    box.defaultChecked = value === preset && (value !== NOT_GIVEN || !input.required);
    boxes.push(box);
    return element("label", "choice", box, wordsIn("span", words));
  });
  const chosen = () => boxes.find((box) => box.checked)?.value ?? NOT_GIVEN;
  return { nodes: [element("div", "choices", ...nodes)], first: boxes[0], chosen };
}

function selectOf(choices, preset) {
  const select = element("select", "");
  const open = choices.some(([value]) => value === NOT_GIVEN) ? [] : [[NOT_GIVEN, (node) => put(node, "field.choose")]];
  for (const [value, words] of [...open, ...choices]) {
    const option = wordsIn("option", words);
    option.value = value;
    option.defaultSelected = value === preset;
    select.append(option);
  }
  return { nodes: [select], first: select, chosen: () => select.value };
}

// A choice's words: the server's own as text, or ours by a function that puts them into the node.
function wordsIn(name, words) {
  const node = element(name, "");
  const own = words(node);
  if (own !== node) node.append(own);
  return node;
}

// "1,500" is one thousand five hundred here and one and a half there: a person must say which.
function readNumber(written) {
  if (!written) return { value: null };
  const parts = /^(-?\d+)(?:([.,])(\d+))?$/.exec(written);
  if (!parts) return { value: written, problem: t("field.one_number") };
  const [, whole, point, rest] = parts;
  if (point === "," && rest.length === 3) {
    return { value: written, problem: t("field.comma", { point: `${whole}.${rest}`, without: `${whole}${rest}` }) };
  }
  const value = Number(point ? `${whole}.${rest}` : whole);
  return Number.isFinite(value) ? { value } : { value: written };
}

function readDate(box) {
  if (box.validity.badInput) return { value: "?", problem: t("field.date") };
  return { value: box.value || null };
}

function showFault(node, line, words) {
  line.hidden = !words;
  line.replaceChildren(...(words ? [icon("warning"), sentence(words)] : []));
  if (words) node.setAttribute("aria-invalid", "true");
  else node.removeAttribute("aria-invalid");
}

// The server's faults are parts of a sentence, ours are whole ones.
function sentence(words) {
  return `${words[0].toUpperCase()}${words.slice(1)}${words.endsWith(".") ? "" : "."}`;
}
