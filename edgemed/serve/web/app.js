// The page of edgemed: ask, read the answer as it comes, stop it.
// Nothing is stored: the questions and answers live in `turns` and are gone with the window.
"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("form");
const box = byId("question");
const askButton = byId("ask");
const stopButton = byId("stop");
const clearButton = byId("clear");
const follow = byId("follow");
const followRow = byId("follow-row");
const answers = byId("answers");

const SILENCE_MS = 60000; // the server sends a sign of life every 10 seconds

const ALONE = "This is now the demonstration model, which answers single questions. "
  + "Write the question in full, then ask again.";

let server = { notice: "Decision support: a clinician decides.", demo: false, demo_notice: "" };
let turns = []; // {question, text, complete, history}: what this window has asked
let running = null; // the AbortController of the answer being read

// ---- What the page says ----

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function announce(text) {
  byId("status").textContent = text;
}

// A screen reader gets whole sentences, not every token.
class Speaker {
  constructor() {
    this.rest = "";
    byId("spoken").replaceChildren();
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

function withUnitsKept(text) {
  return text.replace(BEFORE_UNIT, "$1\u00a0");
}

// One question with its answer on the page.
class Card {
  constructor(question) {
    this.article = element("article");
    this.article.append(element("h2", "", question));
    const body = element("div", "body");
    this.text = element("p", "text");
    this.doing = element("p", "doing", "Sending your question");
    body.append(this.text, this.doing);
    this.body = body;
    this.footer = element("footer");
    this.article.append(body, this.footer);
    answers.append(this.article);
    this.showNotices();
  }
  showNotices() {
    this.footer.replaceChildren();
    if (server.demo) this.footer.append(element("p", "demo-line", server.demo_notice));
    this.footer.append(element("p", "", server.notice));
  }
  write(text) {
    this.text.textContent = withUnitsKept(text.trimStart());
  }
  say(what) {
    if (this.doing.textContent !== what) this.doing.textContent = what;
  }
  finish() {
    this.doing.remove();
  }
  problem(words, again) {
    this.finish();
    const problem = element("div", "problem");
    problem.append(element("p", "", words));
    if (again) {
      const button = element("button", "", "Ask again");
      button.type = "button";
      button.addEventListener("click", () => {
        if (running) return;
        button.remove();
        again();
        box.focus();
      });
      problem.append(button);
    }
    this.body.append(problem);
  }
}

function nearTheEnd() {
  const page = document.documentElement;
  return page.scrollHeight - page.clientHeight - page.scrollTop < 120;
}

// Scroll to what is new, but never so far that the question leaves the window: an answer is read from its start.
function showNews(card) {
  const page = document.documentElement;
  page.scrollTop = Math.min(page.scrollHeight, card.article.offsetTop - 8);
}

// ---- What the server says ----

class Failure extends Error {
  constructor(words, canAskAgain) {
    super(words);
    this.canAskAgain = canAskAgain;
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
  const numbers = /(\d+) tokens .*limit is (\d+) tokens/.exec(message);
  const size = numbers
    ? ` It has ${numbers[1]} word pieces with its instructions; ${numbers[2]} are possible.` : "";
  return "The question is too long for this model." + size
    + " Shorten it" + (follow.checked ? ", or clear the tick for continuing the last question" : "")
    + ", then ask again.";
}

function duration(seconds) {
  if (seconds < 90) return `${seconds} seconds`;
  return `${Math.round(seconds / 60)} minutes`;
}

function failureOf(error) {
  const words = WORDS[error.code];
  const text = words ? words(error.message || "") : error.message || "edgemed gave no reason.";
  return new Failure(text, !NOT_AGAIN.has(error.code));
}

async function failureOfResponse(response) {
  try {
    return failureOf((await response.json()).error);
  } catch {
    return new Failure(`edgemed answered with fault ${response.status}. Ask again.`, true);
  }
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

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("edgemed cannot be reached. It may have been closed on this computer: "
      + "start it again, then ask again.", true);
  }
}

// Which model answers now: edgemed may have been started again with another one under an open page.
async function loadStatus(signal) {
  server = await (await reach("/api/status", { signal })).json();
  byId("notice").textContent = server.notice;
  byId("facts").textContent = (server.offline ? "Works offline: nothing leaves this computer. " : "")
    + `Model: ${server.model}`;
  byId("demo").textContent = server.demo_notice;
  byId("demo").hidden = !server.demo;
  document.title = server.demo ? "edgemed (demonstration)" : "edgemed";
}

// Reads one answer; returns its finish reason. Throws Failure, or AbortError when stopped.
async function readAnswer(messages, signal, show) {
  const response = await reach("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ messages, stream: true }),
    signal,
  });
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
  if (choice && choice.delta.content) show.text(choice.delta.content);
  return choice ? choice.finish_reason : null;
}

function showPlace(comment, show) {
  const place = /place=(\d+) wait_s=(\d+)/.exec(comment);
  if (!place) return;
  const ahead = Number(place[1]);
  if (ahead === 0) show.doing("Reading your question");
  else show.doing(`Waiting: ${ahead === 1 ? "yours is next" : `you are number ${ahead} in line`}, `
    + `about ${duration(Number(place[2]))}`);
}

// ---- Asking ----

function messagesFor(question, history) {
  const messages = [];
  for (const turn of history) {
    messages.push({ role: "user", content: turn.question }, { role: "assistant", content: turn.text });
  }
  return [...messages, { role: "user", content: question }];
}

// The turns that a follow-up builds on: the last answer and those it followed itself.
function historyForFollowUp() {
  const last = turns.at(-1);
  return follow.checked && last && last.complete ? [...last.history, last] : [];
}

async function ask(question, history) {
  byId("welcome").hidden = true;
  clearButton.hidden = false;
  const turn = { question, text: "", complete: false, history };
  turns.push(turn);
  const card = new Card(question);
  const speaker = new Speaker();
  const mine = new AbortController();
  setRunning(mine);
  announce("Question sent.");
  showNews(card);
  const show = {
    doing: (what) => { card.say(what); announce(what); },
    text: (text) => {
      const follows = nearTheEnd();
      turn.text += text;
      card.write(turn.text);
      card.say("Writing");
      speaker.add(text);
      if (follows) showNews(card);
    },
  };
  const again = () => ask(question, history);
  let end;
  try {
    await loadStatus(mine.signal);
    card.showNotices();
    if (server.demo && history.length) throw new Failure(ALONE, false);
    const reason = await readAnswer(messagesFor(question, history), mine.signal, show);
    end = () => finishWell(turn, card, reason, again);
  } catch (error) {
    end = () => finishBadly(turn, card, error, again);
  }
  mine.abort(); // whatever ended it, the server must not go on writing
  speaker.finish();
  const follows = nearTheEnd();
  end();
  if (running === mine) setRunning(null);
  if (follows) showNews(card);
}

function finishWell(turn, card, reason, again) {
  if (reason === "stop" && turn.text.trim()) {
    turn.complete = true;
    card.finish();
    announce("The answer is complete.");
  } else if (reason === "stop") {
    finishBadly(turn, card, new Failure("The model gave no answer. Ask in other words.", true), again);
  } else {
    card.problem("This answer reached its longest allowed length and is incomplete. "
      + "Ask for one part of it at a time.", null);
    announce("The answer is incomplete: it reached its longest allowed length.");
  }
}

function finishBadly(turn, card, error, again) {
  if (error.name === "AbortError") {
    const words = turn.text ? "You stopped this answer. It is incomplete." : "You stopped this question.";
    card.problem(words, again);
    announce(words);
    return;
  }
  const known = error instanceof Failure;
  const words = known ? error.message : "This page met a fault of its own. Reload it, then ask again.";
  card.problem(words, known && error.canAskAgain ? again : null);
  announce(words);
  if (known && !error.canAskAgain && !box.value) box.value = turn.question; // to be shortened, not retyped
}

function setRunning(controller) {
  running = controller;
  askButton.hidden = Boolean(running);
  stopButton.hidden = !running;
  const last = turns.at(-1);
  const canFollow = !running && Boolean(last && last.complete);
  followRow.hidden = !canFollow || server.demo;
  byId("alone").hidden = !canFollow || !server.demo; // its training holds no second question
  if (running) follow.checked = false;
}

function stop() {
  if (!running) return;
  running.abort();
  box.focus();
}

function clearPage() {
  if (!window.confirm("Clear all questions and answers on this page?")) return;
  stop();
  turns = [];
  answers.replaceChildren();
  byId("spoken").replaceChildren();
  byId("welcome").hidden = false;
  clearButton.hidden = true;
  setRunning(null);
  announce("The page is cleared.");
  box.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const question = box.value.trim();
  if (running) return;
  if (!question) {
    announce("Write a question first.");
    box.focus();
    return;
  }
  const history = historyForFollowUp();
  box.value = "";
  ask(question, history);
  box.focus();
});

box.addEventListener("keydown", (event) => {
  // `isComposing`: Enter that ends a word of an input method does not ask
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) form.requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});

stopButton.addEventListener("click", stop);
clearButton.addEventListener("click", clearPage);

// ---- The start ----

async function start() {
  box.value = "";
  box.focus();
  byId("notice").textContent = server.notice;
  try {
    await loadStatus();
  } catch {
    announce("edgemed cannot be reached.");
    byId("facts").textContent = "edgemed cannot be reached. Start it, then reload this page.";
  }
}

start();
