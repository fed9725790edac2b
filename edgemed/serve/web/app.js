// The page of edgemed: ask, read the answer as it comes, stop it, take it away on paper; calculate.
// No word is stored: questions, answers and calculations are gone with the window.

import { clearCalculators, showCalculators } from "./calculators.js";
import { Card } from "./card.js";
import { Speaker, announce, byId } from "./dom.js";
import { showInterrupted } from "./interrupted.js";
import { askInLanguage, languageChosen, loadStatus, server, unreachable, watchCondition } from "./machine.js";
import { Failure, readAnswer, send } from "./server.js";
import { dropSession, endSession, questionAskedAgain, sessionId } from "./session.js";
import { asText, copyText, showSlip } from "./slip.js";
import { handOver, take } from "./taken.js";
import { nearTheEnd, showNews, showView, shownView } from "./views.js";
import { fillPage, firstLanguage, interfaceLanguage, languageChoice, onLanguage, t, useLanguage } from "./words.js";

const form = byId("form");
const box = byId("question");
const language = byId("language");
const follow = byId("follow");
const answers = byId("answers");

const CONDITION_EVERY_MS = 10000;

let turns = []; // {question, language, calculations, history, text, complete, medical, model}: what this window has asked
let running = null; // the AbortController of the answer being read
let cutOff = false; // whether an answer of this conversation broke off: the server keeps its question for a reload

function openCalculators() {
  showView("calculators");
  showCalculators(use, showClearButton);
}

function openQuestions() {
  const before = shownView();
  showView("questions");
  if (before === "calculators") showNews(answers.lastElementChild);
  box.focus({ preventScroll: true });
}

function use(calculation) {
  take(calculation);
  openQuestions();
}

// ---- Asking ----

function requestFor(turn, cache, session) {
  const messages = [];
  for (const earlier of turn.history) {
    messages.push({ role: "user", content: earlier.question }, { role: "assistant", content: earlier.text });
  }
  messages.push({ role: "user", content: turn.question });
  const calculations = turn.calculations.map(({ name, inputs }) => ({ name, inputs }));
  return {
    messages,
    cache,
    ...(session ? { session } : {}),
    ...(turn.language ? { language: turn.language } : {}),
    ...(calculations.length ? { calculations } : {}),
  };
}

// The turns that a follow-up builds on: the last answer and those it followed itself.
function historyForFollowUp() {
  const last = turns.at(-1);
  return follow.checked && last && last.complete ? [...last.history, last] : [];
}

// `asked`: {question, language, calculations, history}.
async function ask(asked, cache = "use") {
  byId("welcome").hidden = true;
  const turn = { ...asked, text: "", complete: false, medical: null, model: server.model, madeAt: Date.now() };
  turns.push(turn);
  showClearButton();
  const card = new Card(turn);
  card.showNotices(server);
  answers.append(card.article);
  const mine = new AbortController();
  setRunning(mine);
  announce(t("answer.sent"));
  showNews(card.article);
  const speaker = new Speaker(turn.language);
  let end;
  try {
    await loadStatus(mine.signal);
    card.showNotices(server);
    turn.answerLanguage = server.demo ? "en" : turn.language;
    speaker.in(turn.answerLanguage);
    if (server.demo && turn.history.length) throw new Failure([["error.demo_alone"]], { again: false });
    const show = shower(turn, card, speaker, again(asked, "retry"));
    const reason = await readInSession(turn, cache, mine.signal, show);
    end = () => finishWell(turn, card, reason, again(asked, "retry"));
  } catch (error) {
    end = () => finishBadly(turn, card, error, again(asked, cache));
  }
  mine.abort(); // whatever ended it, the server must not go on writing
  speaker.finish();
  const follows = nearTheEnd();
  end();
  if (running === mine) setRunning(null);
  if (follows) showNews(card.article);
}

const again = (asked, how) => async () => {
  if (running) {
    announce(t("form.busy"));
    return;
  }
  if (cutOff) questionAskedAgain();
  cutOff = false;
  ask(asked, how);
  box.focus();
};

// A conversation that the server has forgotten is begun anew, once: the page itself holds what was said.
async function readInSession(turn, cache, signal, show) {
  try {
    return await readAnswer(requestFor(turn, cache, await sessionId()), signal, show);
  } catch (error) {
    if (error.code !== "session_unknown") throw error;
    dropSession();
    return readAnswer(requestFor(turn, cache, await sessionId()), signal, show);
  }
}

// What to do with each thing that comes from the server.
function shower(turn, card, speaker, anew) {
  return {
    doing: (what) => { if (card.say(what)) announce(t(...what)); },
    opening: (medical, model) => {
      Object.assign(turn, { model: model || server.model, version: server.version, madeAt: Date.now() });
      const follows = nearTheEnd();
      card.opening(medical, anew);
      if (follows) showNews(card.article); // a warning is news as well
      if (medical.cached) announce(t("answer.saved_short"));
    },
    closing: (medical) => { turn.medical = medical; },
    text: (text) => {
      const follows = nearTheEnd();
      turn.text += text;
      card.write(turn.text);
      card.say(["answer.writing"]);
      speaker.add(text);
      if (follows) showNews(card.article);
    },
  };
}

function finishWell(turn, card, reason, anew) {
  const numbers = card.verdicts(turn.text, turn.medical);
  turn.complete = reason === "stop";
  if (turn.complete) card.finish();
  else card.problem([["answer.too_long"]], null);
  announce(`${t(turn.complete ? "answer.complete" : "answer.incomplete")} ${numbers}`.trim());
  card.offer([["answer.again", anew, "again"], ...(turn.medical ? takingAway(turn, card) : [])]);
}

function takingAway(turn, card) {
  const back = () => {
    openQuestions();
    showNews(card.article);
    card.article.querySelector(".take").focus({ preventScroll: true });
  };
  const copy = async () => announce(t(await copyText(asText(turn, server)) ? "answer.copied" : "answer.not_copied"), true);
  const print = () => {
    showSlip(turn, server, back);
    showView("slip");
    byId("slip").querySelector("button").focus();
  };
  return [["answer.copy", copy, "copy"], ["answer.print", print, "take"]];
}

function finishBadly(turn, card, error, anew) {
  const unchecked = /\d/.test(turn.text) ? [["clinical.unchecked_numbers"]] : [];
  if (error.name === "AbortError") {
    const words = turn.text ? [["answer.stopped"], ...unchecked] : [["answer.stopped_early"]];
    card.problem(words, anew);
    announce(words.map((line) => t(...line)).join(" "));
    return;
  }
  const known = error instanceof Failure;
  const words = [...(known ? error.lines : [["error.page"]]), ...unchecked];
  cutOff = true;
  card.problem(words, known && error.canAskAgain ? anew : null, error.detail);
  announce(words.map((line) => t(...line)).join(" "));
  if (known && !error.canAskAgain && !box.value) box.value = turn.question; // to be shortened, not retyped
}

function setRunning(controller) {
  running = controller;
  byId("ask").hidden = Boolean(running);
  byId("stop").hidden = !running;
  const last = turns.at(-1);
  const canFollow = !running && Boolean(last && last.complete);
  byId("follow-row").hidden = !canFollow || server.demo;
  byId("alone").hidden = !canFollow || !server.demo; // its training holds no second question
  if (running) follow.checked = false;
}

function stop() {
  if (!running) return;
  running.abort();
  box.focus();
}

// ---- Another patient ----

function showClearButton() {
  byId("clear").hidden = false;
}

function clearPage() {
  if (!window.confirm(t("page.new_patient_sure"))) return;
  if (running) running.abort();
  endSession();
  turns = [];
  cutOff = false;
  handOver();
  clearCalculators(use, showClearButton);
  answers.replaceChildren();
  byId("slip").replaceChildren();
  byId("spoken").replaceChildren();
  byId("welcome").hidden = false;
  byId("clear").hidden = true;
  setRunning(null);
  if (shownView() === "slip") showView("questions");
  announce(t("page.cleared"));
  if (!form.hidden) box.focus();
  else byId("show-calculators").focus();
}

// Whoever comes next on this phone needs the access token again.
async function signOut() {
  await endSession();
  try {
    await send("POST", "/api/logout");
  } finally {
    location.assign("/login.html");
  }
}

// What the server remembers of the conversation goes with the page; a question that broke off is kept for a reload.
window.addEventListener("pagehide", () => {
  if (!running && !cutOff) endSession();
});

// ---- Keys and buttons ----

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const question = box.value.trim();
  if (running) return;
  if (!/[\p{L}\p{N}\p{P}\p{S}]/u.test(question)) { // also when there are only characters nobody sees
    announce(t("form.empty"));
    box.focus();
    return;
  }
  const asked = { question, language: language.value, calculations: handOver(), history: historyForFollowUp() };
  box.value = "";
  ask(asked);
  box.focus();
});

box.addEventListener("keydown", (event) => {
  // `isComposing`: Enter that ends a word of an input method does not ask
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) form.requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (shownView() === "slip") byId("slip").querySelector(".back").click();
  else if (!form.hidden) stop();
});

byId("stop").addEventListener("click", stop);
byId("clear").addEventListener("click", clearPage);
byId("sign-out").addEventListener("click", signOut);
byId("show-questions").addEventListener("click", openQuestions);
byId("show-calculators").addEventListener("click", openCalculators);
language.addEventListener("change", languageChosen);

// False while another answer is being written.
function askInterrupted(question) {
  if (running) {
    announce(t("form.busy"), true);
    return false;
  }
  ask({ question, language: language.value, calculations: [], history: [] });
  return true;
}

// ---- The start ----

async function start() {
  fillPage();
  languageChoice(byId("interface"));
  await useLanguage(firstLanguage());
  onLanguage(() => askInLanguage(interfaceLanguage()));
  box.value = "";
  box.focus();
  try {
    await loadStatus();
    await showInterrupted(askInterrupted);
  } catch {
    announce(t("machine.unreachable"));
    unreachable();
  }
}

start();
setInterval(watchCondition, CONDITION_EVERY_MS);
