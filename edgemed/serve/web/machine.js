// What the page says of the server and its computer: model, offline, battery, slow or reduced mode, languages.

import { byId, element } from "./dom.js";
import { readStatus } from "./server.js";
import { bind, fromServer, percent, t, worded } from "./words.js";

const BATTERY_LOW = 20; // percent, below which somebody should look for the charger

export const server = {
  model: "", version: "", notice: "", demo: false, demo_notice: "", offline: false, languages: [], power: null,
};

// Which model answers now: edgemed may have been started again with another one under an open page.
export async function loadStatus(signal) {
  Object.assign(server, await readStatus(signal));
  byId("notice").replaceChildren(fromServer("span", "", server.notice));
  byId("demo").replaceChildren(fromServer("span", "", server.demo_notice));
  byId("demo").hidden = !server.demo;
  byId("insecure").hidden = !server.network_warning;
  byId("sign-out").hidden = !server.signed_in;
  const saving = server.cache.disk ? "welcome.saved_sealed" : "welcome.saved_in_memory";
  byId("saving").replaceChildren(worded("span", "", saving));
  bind(byId("facts"), "", () => { byId("facts").textContent = facts().join(" "); });
  bind(document.documentElement, "title", () => { document.title = server.demo ? t("page.demonstration") : "edgemed"; });
  showCondition();
  showLanguages();
}

export function unreachable() {
  bind(byId("facts"), "", () => { byId("facts").textContent = t("machine.unreachable"); });
}

export async function watchCondition() {
  if (document.hidden) return;
  try {
    const { condition, power } = await readStatus();
    Object.assign(server, { condition, power });
    byId("facts").textContent = facts().join(" ");
    showCondition();
  } catch {
    // the next question says what is wrong
  }
}

function facts() {
  const said = server.offline ? [t("machine.offline")] : [];
  if (onBattery() && !batteryLow()) {
    said.push(server.power.percent === null ? t("machine.battery_unknown") : t("machine.battery", charge()));
  }
  return [...said, t("machine.model", { model: server.model })];
}

const onBattery = () => server.power?.source === "battery";
const batteryLow = () => onBattery() && server.power.percent !== null && server.power.percent < BATTERY_LOW;
const charge = () => ({ percent: percent(server.power.percent) });

// How the engine does: a person who knows why it is slow waits, and closes other programs.
function showCondition() {
  const line = byId("condition");
  bind(line, "", () => {
    const words = conditionWords().join(" ");
    if (line.textContent !== words) line.textContent = words; // only news is read aloud
    line.hidden = !words;
  });
}

function conditionWords() {
  const { rung, slow, slower_by: slowerBy, cause, words } = server.condition;
  const said = batteryLow() ? [t("machine.battery_low", charge())] : [];
  const times = slowerBy ? { n: Math.max(2, Math.round(slowerBy)) } : null;
  if (rung) {
    const why = `machine.reduced_${cause}`;
    said.push(t(why) === why ? words : t(why), t("machine.reduced_back"));
    if (slow) said.push(times ? t("machine.slower", times) : t("machine.slower_much"));
  } else if (slow) {
    said.push(times ? t("machine.slow", times) : t("machine.slow_much"));
  }
  return said;
}

// ---- The language that questions are asked in ----

function showLanguages() {
  const language = byId("language");
  const codes = server.languages.map((each) => each.code);
  if (codes.join() !== Array.from(language.options, (option) => option.value).join()) {
    const chosen = language.value;
    language.replaceChildren(...server.languages.map((each) => {
      const option = element("option", "", each.name);
      option.value = each.code;
      option.lang = each.code;
      return option;
    }));
    if (codes.includes(chosen)) language.value = chosen;
    else askInLanguage(document.documentElement.lang);
  }
  language.hidden = codes.length < 2;
  languageChosen();
}

// Who reads the page in French most likely asks in French.
export function askInLanguage(code) {
  if (!server.languages.some((each) => each.code === code)) return;
  byId("language").value = code;
  languageChosen();
}

export function languageChosen() {
  const chosen = server.languages.find((each) => each.code === byId("language").value);
  byId("question").lang = byId("language").value || "en";
  byId("unchecked").hidden = !chosen || chosen.danger_checked;
}
