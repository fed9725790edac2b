// Lines over the last ten minutes, drawn as SVG: axes, ticks, units, a legend by words and dashes, and a table with the
// same figures for who does not see them.

import { element } from "./dom.js";
import { number, t, worded } from "./words.js";

const MINUTES = 10;
const WIDTH = 360;
const HEIGHT = 176;
const LEFT = 44;
const RIGHT = 8;
const TOP = 10;
const BOTTOM = 36;

// `plot`: {title, unit, whole (numbers alone), lines: [{name, of(sample) -> number or null}]}, names are keys of words.
// Returns the node; `samples` are oldest first, `t` seconds ago.
export function drawPlot(plot, samples) {
  const lines = plot.lines.map((line) => ({ ...line, points: samples.map((sample) => [sample.t, line.of(sample)]) }));
  const known = lines.flatMap((line) => line.points.map(([, value]) => value)).filter((value) => value !== null);
  const ticks = ticksTo(Math.max(...known, 0), plot.whole);
  const figure = element("figure", "plot", caption(plot));
  if (!known.length) {
    figure.append(worded("p", "", "plot.nothing"));
    return figure;
  }
  figure.append(picture(plot, lines, ticks));
  if (lines.length > 1) figure.append(legend(lines));
  figure.append(table(plot, lines));
  return figure;
}

function caption(plot) {
  return element("figcaption", "", worded("b", "", plot.title), " (", worded("span", "", plot.unit), ")");
}

// Round steps from 0 to at least `most`: [0, 2, 4, 6].
function ticksTo(most, whole) {
  const rough = Math.max(most, 1e-6) / 4;
  const ten = 10 ** Math.floor(Math.log10(rough));
  const steps = whole ? [1, 2, 5, 10] : [1, 2, 2.5, 5, 10];
  const step = Math.max(steps.find((each) => each * ten >= rough) * ten, whole ? 1 : 0.25);
  const ticks = [0];
  while (ticks.at(-1) < most || ticks.length < 3) ticks.push(ticks.at(-1) + step);
  return ticks;
}

const xOf = (secondsAgo) => WIDTH - RIGHT - (secondsAgo / 60 / MINUTES) * (WIDTH - LEFT - RIGHT);

function picture(plot, lines, ticks) {
  const top = ticks.at(-1);
  const yOf = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": summary(plot, lines) });
  for (const tick of ticks) {
    svg.append(drawn("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: yOf(tick), y2: yOf(tick) }));
    svg.append(label(number(tick, 2), LEFT - 6, yOf(tick) + 4, "end"));
  }
  for (let minutes = 0; minutes <= MINUTES; minutes += 2) {
    const x = xOf(minutes * 60);
    svg.append(drawn("line", { class: "axis", x1: x, x2: x, y1: yOf(0), y2: yOf(0) + 4 }));
    svg.append(label(number(minutes), x, HEIGHT - 20, "middle"));
  }
  svg.append(drawn("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: yOf(0), y2: yOf(0) }));
  svg.append(label(t("status.ago"), (LEFT + WIDTH) / 2, HEIGHT - 5, "middle"));
  lines.forEach((line, index) => {
    svg.append(drawn("path", { class: `line line-${index}`, d: pathOf(line.points, yOf) }));
  });
  return svg;
}

// A gap where a figure is missing.
function pathOf(points, yOf) {
  let pen = "M";
  const parts = [];
  for (const [ago, value] of points) {
    if (value === null || ago > MINUTES * 60) {
      pen = "M";
      continue;
    }
    parts.push(`${pen}${xOf(ago).toFixed(1)} ${yOf(value).toFixed(1)}`);
    pen = "L";
  }
  return parts.join("");
}

function drawn(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}

function label(words, x, y, anchor) {
  const made = drawn("text", { x, y, "text-anchor": anchor });
  made.textContent = words;
  return made;
}

function figuresOf(line) {
  const values = line.points.map(([, value]) => value).filter((value) => value !== null);
  if (!values.length) return { now: "-", low: "-", high: "-" };
  return { now: number(values.at(-1)), low: number(Math.min(...values)), high: number(Math.max(...values)) };
}

function summary(plot, lines) {
  const [title, unit] = [t(plot.title), t(plot.unit)];
  if (lines.length === 1) return t("plot.summary", { title, unit, ...figuresOf(lines[0]) });
  const each = lines.map((line) => t("plot.line_summary", { line: t(line.name), ...figuresOf(line) }));
  return `${title}, ${unit}. ${each.join(" ")}`;
}

function legend(lines) {
  return element("ul", "legend", ...lines.map((line, index) => {
    const sample = drawn("svg", { viewBox: "0 0 26 8", class: "sample", "aria-hidden": "true" });
    sample.append(drawn("path", { class: `line line-${index}`, d: "M1 4L25 4" }));
    return element("li", "", sample, " ", worded("span", "", line.name));
  }));
}

// One row for each minute: the sample nearest to it.
function table(plot, lines) {
  const head = element("tr", "", headCell("status.ago"), ...lines.map((line) => headCell(line.name)));
  const rows = [];
  for (let minutes = 0; minutes <= MINUTES; minutes += 1) {
    const cells = lines.map((line) => nearest(line.points, minutes * 60));
    if (cells.some((cell) => cell !== null)) {
      const values = cells.map((cell) => element("td", "", cell === null ? "-" : number(cell)));
      rows.push(element("tr", "", element("td", "", number(minutes)), ...values));
    }
  }
  const title = worded("caption", "unseen", plot.title);
  const grid = element("table", "", title, element("thead", "", head), element("tbody", "", ...rows));
  return element("details", "", worded("summary", "", "status.as_table"), grid);
}

function headCell(key) {
  const cell = worded("th", "", key);
  cell.scope = "col";
  return cell;
}

function nearest(points, secondsAgo) {
  const near = points.filter(([ago, value]) => value !== null && Math.abs(ago - secondsAgo) <= 30);
  near.sort((a, b) => Math.abs(a[0] - secondsAgo) - Math.abs(b[0] - secondsAgo));
  return near.length ? near[0][1] : null;
}
