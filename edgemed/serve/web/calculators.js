// The calculators: a form each, its result below it. They stay on the page until it is cleared; nothing is stored.

import { announce, button, byId, element, icon, newId } from "./dom.js";
import { fieldOf } from "./fields.js";
import { Failure, calculate, readCalculators } from "./server.js";
import { t, worded } from "./words.js";

let forms = null; // what the server said of them
let opened = 0; // counts clearings, so that a late result does not come back

// Shows the forms, asking the server once. `use(calculation)` takes one along to the next question.
export async function showCalculators(use, onChange) {
  const list = byId("calculator-list");
  if (forms) return;
  list.replaceChildren(worded("p", "", "calculator.loading"));
  try {
    forms = await readCalculators();
  } catch (error) {
    const lines = error instanceof Failure ? error.lines : [["calculator.unreadable"]];
    list.replaceChildren(...lines.map((line) => worded("p", "", ...line)),
      button("calculator.try_again", () => showCalculators(use, onChange)));
    announce(lines.map((line) => t(...line)).join(" "));
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
  box.lang = "en"; // the server's forms are; our own words inside say their language
  const title = element("h3", "", form.title);
  box.append(element("summary", "", title, element("span", "purpose", form.purpose)));
  const fields = form.inputs.map(fieldOf);
  const problem = element("p", "fault");
  problem.hidden = true;
  const result = element("div", "result");
  const submit = worded("button", "main-button", "calculator.calculate");
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
    failure = error instanceof Failure ? error : new Failure([["calculator.page_fault"]]);
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
  showFaults(fields, problem, faults, faults.size || !failure ? "" : [failure.words, failure.detail].filter(Boolean).join(" "));
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
  announce(t("calculator.attention", { n: faulty.length }));
  faulty[0].focus();
}

function makeStale({ result }) {
  if (!result.firstChild || result.classList.contains("stale")) return;
  result.classList.add("stale");
  result.querySelector(".use")?.remove();
  result.prepend(element("p", "stale-line", icon("warning"), worded("span", "", "calculator.stale")));
}

function showResult({ form, result }, found, inputs, use) {
  const title = worded("h4", "", "calculator.result");
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
  result.append(howLine("calculator.from", found.inputs.map((input) => `${input.label}: ${input.text}`).join("; ")));
  result.append(howLine("calculator.rounded", [...new Set(found.values.map((value) => value.rounding))].filter(Boolean).join("; ")));
  result.append(howLine("calculator.formula", found.formula), howLine("calculator.source", ...sourceOf(found)));
  result.append(element("p", "decision", found.notice));
  const words = `${form.title}: ${wordsOf(found)}`;
  result.append(button("calculator.use", () => use({ name: form.name, inputs, words }), "use"));
  const told = [wordsOf(found), found.category, ...found.warnings].filter(Boolean).join(". ");
  announce(t("calculator.result_is", { result: told }));
  result.scrollIntoView({ block: "nearest" });
}

function howLine(key, ...content) {
  return content[0] ? element("p", "how", worded("b", "", key), " ", ...content) : "";
}

function sourceOf(found) {
  if (found.source_read === "from memory") return [found.source, " ", worded("span", "", "calculator.from_memory")];
  return [found.source, " ", worded("span", "", "calculator.read_on", { date: found.source_read })];
}

function wordsOf(found) {
  const values = found.values.slice(0, 2).map((value) => `${value.label} ${value.text}`).join(", ");
  return values || found.category;
}
