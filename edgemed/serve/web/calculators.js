// The calculators: a form each, its result below it. They stay on the page until it is cleared; nothing is stored.

import { announce, button, byId, element, icon, newId } from "./dom.js";
import { fieldOf } from "./fields.js";
import { Failure, calculate, readCalculators } from "./server.js";

let forms = null; // what the server said of them
let opened = 0; // counts clearings, so that a late result does not come back

// Shows the forms, asking the server once. `use(calculation)` takes one along to the next question.
export async function showCalculators(use, onChange) {
  const list = byId("calculator-list");
  if (forms) return;
  list.replaceChildren(element("p", "", "Loading the calculators"));
  try {
    forms = await readCalculators();
  } catch (error) {
    const words = error instanceof Failure ? error.message : "The calculators could not be read.";
    list.replaceChildren(element("p", "", words), button("Try again", () => showCalculators(use, onChange)));
    announce(words);
    return;
  }
  list.replaceChildren(...forms.map((form) => calculatorOf(form, use, onChange)));
}

export function clearCalculators(use, onChange) {
  opened += 1;
  if (forms) byId("calculator-list").replaceChildren(...forms.map((form) => calculatorOf(form, use, onChange)));
}

function calculatorOf(form, use, onChange) {
  const box = element("details", "calculator");
  const title = element("h3", "", form.title);
  box.append(element("summary", "", title, element("span", "purpose", form.purpose)));
  const fields = form.inputs.map(fieldOf);
  const problem = element("p", "fault");
  problem.hidden = true;
  const result = element("div", "result");
  const submit = element("button", "main-button", "Calculate");
  submit.type = "submit";
  const sheet = element("form", "sheet", ...fields.map((field) => field.node), problem, submit);
  sheet.noValidate = true; // the server judges, all fields at once
  sheet.autocomplete = "off";
  sheet.setAttribute("aria-label", form.title);
  const parts = { form, fields, problem, result, submit };
  sheet.addEventListener("input", () => {
    onChange();
    makeStale(parts);
  });
  sheet.addEventListener("submit", (event) => {
    event.preventDefault();
    run(parts, use);
  });
  box.append(sheet, result, element("p", "limits", form.limits));
  return box;
}

async function run(parts, use) {
  const { form, fields, problem, submit } = parts;
  const [inputs, faults] = read(fields);
  const mine = opened;
  const asked = JSON.stringify(inputs);
  submit.disabled = true;
  let result = null;
  let failure = null;
  try {
    result = await calculate(form.name, inputs);
  } catch (error) {
    failure = error instanceof Failure ? error : new Failure("This page met a fault of its own. Reload it.", false);
  }
  submit.disabled = false;
  if (mine !== opened) return;
  if (result && !faults.size) {
    showFaults(fields, problem, faults, "");
    showResult(parts, result, inputs, use);
    if (JSON.stringify(read(fields)[0]) !== asked) makeStale(parts); // changed while the server worked
    return;
  }
  for (const { name, problem: words } of failure ? failure.faults : []) {
    if (!faults.has(name)) faults.set(name, words);
  }
  makeStale(parts);
  showFaults(fields, problem, faults, faults.size || !failure ? "" : failure.message);
}

function read(fields) {
  const [inputs, faults] = [{}, new Map()];
  for (const field of fields) {
    const { value, problem } = field.read();
    if (value !== null) inputs[field.name] = value;
    if (problem) faults.set(field.name, problem);
  }
  return [inputs, faults];
}

function showFaults(fields, line, faults, message) {
  const faulty = fields.filter((field) => faults.has(field.name));
  for (const field of fields) field.fault(faults.get(field.name) || "");
  const own = [...faults].filter(([name]) => !fields.some((field) => field.name === name));
  const words = [message, ...own.map(([name, problem]) => `${name}: ${problem}`)].filter(Boolean).join(" ");
  line.textContent = words;
  line.hidden = !words;
  if (!faulty.length) {
    if (words) announce(words);
    return;
  }
  announce(`Not calculated: ${faulty.length === 1 ? "one field needs" : `${faulty.length} fields need`} attention.`);
  faulty[0].focus();
}

function makeStale({ result }) {
  if (!result.firstChild || result.classList.contains("stale")) return;
  result.classList.add("stale");
  result.querySelector(".use")?.remove();
  result.prepend(element("p", "stale-line", icon("warning"),
    "The fields were changed after this result. It belongs to the values listed in it. Calculate again."));
}

function showResult({ form, result }, found, inputs, use) {
  const title = element("h4", "", "Result");
  title.id = newId("result");
  const values = element("dl", "values");
  for (const value of found.values) {
    values.append(element("dt", "", value.label), element("dd", "", value.text));
  }
  result.classList.remove("stale");
  result.setAttribute("role", "group");
  result.setAttribute("aria-labelledby", title.id);
  result.replaceChildren(title, values);
  if (found.category) result.append(element("p", "category", found.category));
  for (const warning of found.warnings) result.append(element("p", "care", icon("warning"), warning));
  result.append(howLine("From", found.inputs.map((input) => `${input.label}: ${input.text}`).join("; ")));
  result.append(howLine("Rounded", [...new Set(found.values.map((value) => value.rounding))].filter(Boolean).join("; ")));
  result.append(howLine("Formula", found.formula), howLine("Source", sourceOf(found)));
  result.append(element("p", "decision", found.notice));
  const words = `${form.title}: ${wordsOf(found)}`;
  result.append(button("Use in the question", () => use({ name: form.name, inputs, words }), "use"));
  announce(`Result: ${[wordsOf(found), found.category, ...found.warnings].filter(Boolean).join(". ")}`);
  result.scrollIntoView({ block: "nearest" });
}

function howLine(word, text) {
  return text ? element("p", "how", element("b", "", `${word}: `), text) : "";
}

function sourceOf(found) {
  if (found.source_read === "from memory") return `${found.source} (written from memory: not verified)`;
  return `${found.source} (read ${found.source_read})`;
}

function wordsOf(found) {
  const values = found.values.slice(0, 2).map((value) => `${value.label} ${value.text}`).join(", ");
  return values || found.category;
}
