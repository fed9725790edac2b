// The page for whoever looks after the computer: what serves, how it does, and the last ten minutes as lines.

import { byId, element } from "./dom.js";
import { drawPlot } from "./plot.js";
import { readJson } from "./server.js";
import {
  duration, fillPage, firstLanguage, languageChoice, number, onLanguage, percent, t, useLanguage, worded,
} from "./words.js";

const EVERY_MS = 2000;
const GIB = 2 ** 30;

const PLOTS = [
  { title: "plot.tokens", unit: "plot.tokens_unit", lines: [{ name: "plot.tokens", of: (s) => s.tokens_per_s }] },
  {
    title: "plot.memory", unit: "plot.memory_unit",
    lines: [{ name: "plot.memory", of: (s) => (s.memory_bytes === null ? null : s.memory_bytes / GIB) }],
  },
  {
    title: "plot.queue", unit: "plot.queue_unit", whole: true,
    lines: [{ name: "plot.running", of: (s) => s.running }, { name: "plot.waiting", of: (s) => s.waiting }],
  },
  {
    title: "plot.hits", unit: "plot.hits_unit", whole: true,
    lines: [{ name: "plot.asked", of: (s) => s.questions }, { name: "plot.cache_hits", of: (s) => s.cache_hits }],
  },
];

// What was read last: {status, health, samples}; samples are null where the server keeps none.
let seen = { status: null, health: null, samples: null };

// /health answers 503 with the same fields when all is not well.
async function readHealth() {
  const response = await fetch("/health");
  return response.json();
}

async function look() {
  if (document.hidden) return;
  try {
    const [status, health] = await Promise.all([readJson("/api/status"), readHealth()]);
    seen = { status, health, samples: await readSamples() };
    show();
  } catch {
    byId("condition").textContent = t("status.unreachable");
    byId("condition").hidden = false;
  }
}

async function readSamples() {
  try {
    return (await readJson("/api/live")).samples;
  } catch (error) {
    if (error.code === "not_found") return null; // an older server
    throw error;
  }
}

function show() {
  if (!seen.status) return;
  byId("condition").hidden = true;
  document.title = t("status.page_title");
  byId("figures").replaceChildren(...facts(seen).flatMap(([key, value]) => [worded("dt", "", key), element("dd", "", value)]));
  const open = [...byId("plots").querySelectorAll("details")].map((each) => each.open);
  const plots = seen.samples === null ? [worded("p", "", "status.unmeasured")]
    : PLOTS.map((plot) => drawPlot(plot, seen.samples));
  if (byId("plots").contains(document.activeElement)) return; // not below somebody's fingers
  byId("plots").replaceChildren(...plots);
  byId("plots").querySelectorAll("details").forEach((each, index) => { each.open = Boolean(open[index]); });
}

function facts({ status, health }) {
  const context = health.context_length || status.context_length;
  const slots = health.n_slots || status.n_slots;
  return [
    ["status.state", t(`status.state_${health.status}`)],
    ["status.mode", t(`status.mode_${health.state}`)],
    ["status.model", status.model],
    ["status.engine", status.engine],
    ["status.context", t("status.context_is", { n: context })],
    ["status.slots", number(slots)],
    ["status.offline", t(status.offline ? "status.offline_yes" : "status.offline_no")],
    ["status.power", power(status.power)],
    ["status.restarts", number(health.worker_restarts)],
    ["status.up", duration(status.up_s)],
    ["status.cached", number(status.cache.memory_entries)],
    ["status.version", status.version],
  ];
}

function power({ source, percent: charge }) {
  const words = t(`status.power_${source}`);
  return charge === null ? words : t("status.power_percent", { source: words, percent: percent(charge) });
}

async function start() {
  fillPage();
  languageChoice(byId("interface"));
  onLanguage(show);
  await useLanguage(firstLanguage());
  await look();
  setInterval(look, EVERY_MS);
}

start();
