// What the page and the server say to each other.

import { byId, duration } from "./dom.js";

const SILENCE_MS = 60000; // the server sends a sign of life every 10 seconds

export class Failure extends Error {
  constructor(words, canAskAgain, faults = []) {
    super(words);
    this.canAskAgain = canAskAgain;
    this.faults = faults; // of a calculator's fields: {name, problem}
  }
}

const LOST = "The connection to edgemed was lost, so this answer is incomplete. Ask again. "
  + "If it happens again, edgemed may have been closed on this computer: start it, then ask again.";

const WORDS = {
  queue_full: (message) => "Too many questions are being answered at once. " + waitFrom(message),
  context_length_exceeded: (message) => inPlainWords(message),
  engine_lost: () => "The program that writes the answers stopped and is being started again. "
    + "This answer is incomplete. Wait a moment, then ask again.",
  engine_failed: () => "The program that writes the answers failed. Ask again. "
    + "If it happens again, close edgemed and start it anew.",
  deadline_exceeded: () => "This took too long and was ended, so the answer is incomplete. "
    + "Ask again, or ask a shorter question.",
  shutting_down: () => "edgemed was closed on this computer, so the answer is incomplete. "
    + "Start it again, then ask again.",
  body_too_large: () => "The question is far too long. Shorten it, then ask again.",
};

const NOT_AGAIN = new Set(["context_length_exceeded", "body_too_large"]);

function waitFrom(message) {
  const seconds = /about (\d+) s/.exec(message);
  return seconds ? `Ask again in about ${duration(Number(seconds[1]))}.` : "Ask again in a minute.";
}

function inPlainWords(message) {
  const numbers = /(\d+) tokens.*(?:limit is|may have) (\d+)/.exec(message);
  const size = numbers
    ? ` It has ${numbers[1]} word pieces with its instructions; ${numbers[2]} are possible.` : "";
  return "The question is too long for this model." + size
    + " Shorten it" + (byId("follow").checked ? ", or clear the tick for continuing the last question" : "")
    + ", then ask again.";
}

function failureOf(error) {
  const words = WORDS[error.code];
  const text = words ? words(error.message || "") : error.message || "edgemed gave no reason.";
  return new Failure(text, !NOT_AGAIN.has(error.code), error.faults || []);
}

async function failureOfResponse(response) {
  try {
    return failureOf((await response.json()).error);
  } catch {
    return new Failure(`edgemed answered with fault ${response.status}. Ask again.`, true);
  }
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("edgemed cannot be reached. It may have been closed on this computer: "
      + "start it again, then ask again.", true);
  }
}

function posted(body, signal) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
}

async function jsonOf(response) {
  if (!response.ok) throw await failureOfResponse(response);
  return response.json();
}

export async function readStatus(signal) {
  return jsonOf(await reach("/api/status", { signal }));
}

export async function readCalculators() {
  return (await jsonOf(await reach("/api/calculators"))).calculators;
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
    timer = setTimeout(() => reject(new Failure(LOST, true)), SILENCE_MS);
  });
  return Promise.race([promise, silence]).finally(() => clearTimeout(timer));
}

// Reads one answer; returns its finish reason. Throws Failure, or AbortError when stopped.
// `show` hears of it: doing(words), text(piece), opening(medical), closing(medical).
export async function readAnswer(request, signal, show) {
  const response = await reach("/v1/chat/completions", posted({ ...request, stream: true }, signal));
  if (!response.ok) throw await failureOfResponse(response);
  show.doing("Reading your question");
  let reason = null;
  try {
    for await (const event of eventsOf(response)) {
      if (event.comment !== undefined) showPlace(event.comment, show);
      else if (event.data === "[DONE]") return reason;
      else reason = takeChunk(JSON.parse(event.data), show) || reason;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Failure) throw error;
    throw new Failure(LOST, true);
  }
  throw new Failure(LOST, true); // the stream ended without its last event
}

function takeChunk(chunk, show) {
  if (chunk.error) throw failureOf(chunk.error);
  const choice = chunk.choices[0];
  if (!choice) return null;
  if (chunk.medical) (choice.finish_reason ? show.closing : show.opening)(chunk.medical);
  if (choice.delta.reasoning_content) show.doing("Thinking");
  if (choice.delta.content) show.text(choice.delta.content);
  return choice.finish_reason;
}

function showPlace(comment, show) {
  const place = /place=(\d+) wait_s=(\d+)/.exec(comment);
  if (!place) return;
  const ahead = Number(place[1]);
  if (ahead === 0) show.doing("Reading your question");
  else show.doing(`Waiting: ${ahead === 1 ? "yours is next" : `you are number ${ahead} in line`}, `
    + `about ${duration(Number(place[2]))}`);
}
