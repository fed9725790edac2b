// What the page and the server say to each other.

import { duration, t } from "./words.js";

const SILENCE_MS = 60000; // the server sends a sign of life every 10 seconds
const LOGIN = "/login.html";

// `lines`: key and values of each sentence to show. `detail`: the server's own English message.
export class Failure extends Error {
  constructor(lines, { again = true, faults = [], detail = "", code = "" } = {}) {
    super(code);
    this.lines = lines;
    this.canAskAgain = again;
    this.faults = faults; // of a calculator's fields: {name, problem}
    this.detail = detail;
    this.code = code;
  }
  get words() {
    return this.lines.map((line) => t(...line)).join(" ");
  }
}

const lost = () => new Failure([["error.lost"]]);

const OWN_WORDS = {
  queue_full: (message) => waitFrom(message),
  context_length_exceeded: (message) => tooLong(message),
};

const NOT_AGAIN = new Set(["context_length_exceeded", "body_too_large"]);

function waitFrom(message) {
  const seconds = /about (\d+) s/.exec(message);
  if (!seconds) return [["error.queue_full_soon"]];
  return [["error.queue_full", { duration: () => duration(Number(seconds[1])) }]];
}

function tooLong(message) {
  const numbers = /(\d+) tokens.*(?:limit is|may have) (\d+)/.exec(message);
  const line = numbers
    ? ["error.context_length_counted", { n: Number(numbers[1]), most: Number(numbers[2]) }]
    : ["error.context_length_exceeded"];
  return document.getElementById("follow")?.checked ? [line, ["error.or_clear_follow"]] : [line];
}

// Errors are known by their code; the English message is kept as detail.
function failureOf(error) {
  const { code, message = "", faults = [] } = error;
  const key = `error.${code}`;
  let lines = code in OWN_WORDS ? OWN_WORDS[code](message) : [[key]];
  if (t(lines[0][0]) === lines[0][0]) lines = [["error.other"]];
  return new Failure(lines, { again: !NOT_AGAIN.has(code), faults, detail: message, code });
}

async function failureOfResponse(response) {
  let error = null;
  try {
    ({ error } = await response.json());
  } catch {
    // not ours: what stands between may answer too
  }
  if (!error) return new Failure([["error.status", { status: String(response.status) }]]);
  if (response.status === 401) location.assign(LOGIN); // a server on the network asks for its access token
  return failureOf(error);
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure([["error.unreachable"]]);
  }
}

function posted(body, signal) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
}

async function jsonOf(response) {
  if (!response.ok) throw await failureOfResponse(response);
  return response.json();
}

// The JSON of one of the server's addresses. Throws Failure, whose `code` is the server's.
export async function readJson(path, options = {}) {
  return jsonOf(await reach(path, options));
}

// Goes its way also when the page is being closed.
export async function send(method, path) {
  const response = await reach(path, { method, keepalive: true });
  if (!response.ok) throw await failureOfResponse(response);
}

export async function readStatus(signal) {
  return readJson("/api/status", { signal });
}

export async function newSession() {
  return jsonOf(await reach("/api/sessions", posted({})));
}

export async function readCalculators() {
  return (await readJson("/api/calculators")).calculators;
}

// Throws Failure; its `faults` name the fields.
export async function calculate(name, inputs) {
  return jsonOf(await reach(`/api/calculators/${encodeURIComponent(name)}`, posted({ inputs })));
}

// Lines of a stream of server-sent events: yields "data" texts and comments.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await withinTime(reader.read());
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ")) yield { data: line.slice(6) };
      else if (line.startsWith(":")) yield { comment: line.slice(1).trim() };
    }
  }
}

function withinTime(promise) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(lost()), SILENCE_MS);
  });
  return Promise.race([promise, silence]).finally(() => clearTimeout(timer));
}

// Reads one answer; returns its finish reason. Throws Failure, or AbortError when stopped.
// `show` hears of it: doing(key and values), text(piece), opening(medical, model), closing(medical).
export async function readAnswer(request, signal, show) {
  const response = await reach("/v1/chat/completions", posted({ ...request, stream: true }, signal));
  if (!response.ok) throw await failureOfResponse(response);
  show.doing(["answer.reading"]);
  let reason = null;
  try {
    for await (const event of eventsOf(response)) {
      if (event.comment !== undefined) showPlace(event.comment, show);
      else if (event.data === "[DONE]") return reason;
      else reason = takeChunk(JSON.parse(event.data), show) || reason;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Failure) throw error;
    throw lost();
  }
  throw lost(); // the stream ended without its last event
}

function takeChunk(chunk, show) {
  if (chunk.error) throw failureOf(chunk.error);
  const choice = chunk.choices[0];
  if (!choice) return null;
  if (chunk.medical) (choice.finish_reason ? show.closing : show.opening)(chunk.medical, chunk.model);
  if (choice.delta.reasoning_content) show.doing(["answer.thinking"]);
  if (choice.delta.content) show.text(choice.delta.content);
  return choice.finish_reason;
}

function showPlace(comment, show) {
  const place = /place=(\d+) wait_s=(\d+)/.exec(comment);
  if (!place) return;
  const ahead = Number(place[1]);
  const wait = { n: ahead, duration: () => duration(Number(place[2])) };
  if (ahead === 0) show.doing(["answer.reading"]);
  else show.doing([ahead === 1 ? "answer.next" : "answer.place", wait]);
}
