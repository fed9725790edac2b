// The page of edgemed: ask, read the answer as it comes, stop it; calculate.
// Nothing is stored: questions, answers and calculations are gone with the window.

import { clearCalculators, showCalculators } from "./calculators.js";
import { Card, UNCHECKED_NUMBERS } from "./card.js";
import { Speaker, announce, button, byId, element } from "./dom.js";
import { NOT_CHECKED } from "./medical.js";
import { Failure, readAnswer, readStatus } from "./server.js";

const form = byId("form");
const box = byId("question");
const language = byId("language");
const follow = byId("follow");
const answers = byId("answers");

const MOST_CALCULATIONS = 8;
const CONDITION_EVERY_MS = 10000;

const ALONE = "This is now the demonstration model, which answers single questions. "
  + "Write the question in full, then ask again.";

let server = { notice: "Decision support: a clinician decides.", demo: false, demo_notice: "", languages: [] };
let turns = []; // {question, language, calculations, history, text, complete, medical}: what this window has asked
let taken = []; // {name, inputs, words}: calculations that go with the next question
let running = null; // the AbortController of the answer being read

// ---- Where the window stands ----

function nearTheEnd() {
  const page = document.documentElement;
  return page.scrollHeight - page.clientHeight - page.scrollTop < 120;
}

// Scroll to what is new, but never so far that the question leaves the window: an answer is read from its start.
function showNews(article) {
  if (!article || byId("questions").hidden) return;
  const page = document.documentElement;
  page.scrollTop = Math.min(page.scrollHeight, article.offsetTop - 8);
}

let calculatorsAt = 0; // where the calculators were left

function showView(name) {
  const other = name === "questions" ? "calculators" : "questions";
  if (!byId(name).hidden) return;
  const page = document.documentElement;
  if (other === "calculators") calculatorsAt = page.scrollTop;
  byId(other).hidden = true;
  byId(name).hidden = false;
  form.hidden = name !== "questions";
  byId(`show-${other}`).removeAttribute("aria-current");
  byId(`show-${name}`).setAttribute("aria-current", "page");
  if (name === "calculators") page.scrollTop = calculatorsAt;
  else showNews(answers.lastElementChild);
}

function openCalculators() {
  showView("calculators");
  showCalculators(use, showClearButton);
}

function openQuestions() {
  showView("questions");
  box.focus({ preventScroll: true });
}

// ---- What the server is ----

// Which model answers now: edgemed may have been started again with another one under an open page.
async function loadStatus(signal) {
  server = await readStatus(signal);
  byId("notice").textContent = server.notice;
  byId("facts").textContent = (server.offline ? "Works offline: nothing leaves this computer. " : "")
    + `Model: ${server.model}`;
  byId("demo").textContent = server.demo_notice;
  byId("demo").hidden = !server.demo;
  byId("saving").textContent = "edgemed may save a question in which nobody is named, with its answer, "
    + (server.cache.disk ? "sealed, on this computer." : "until edgemed is closed.");
  document.title = server.demo ? "edgemed (demonstration)" : "edgemed";
  showCondition(server.condition.words);
  showLanguages();
}

// How the engine does: a person who knows why it is slow waits, and closes other programs.
function showCondition(words) {
  const line = byId("condition");
  if (line.textContent !== words) line.textContent = words; // only news is read aloud
  line.hidden = !words;
}

async function watchCondition() {
  if (document.hidden) return;
  try {
    showCondition((await readStatus()).condition.words);
  } catch {
    // the next question says what is wrong
  }
}

function showLanguages() {
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
  }
  language.hidden = codes.length < 2;
  chooseLanguage();
}

function chooseLanguage() {
  const chosen = server.languages.find((each) => each.code === language.value);
  box.lang = language.value || "en";
  byId("unchecked").textContent = NOT_CHECKED;
  byId("unchecked").hidden = !chosen || chosen.danger_checked;
}

// ---- Calculations taken along ----

function use(calculation) {
  const key = (each) => JSON.stringify([each.name, each.inputs]);
  if (taken.length >= MOST_CALCULATIONS) {
    announce(`At most ${MOST_CALCULATIONS} calculations can go with a question.`);
    openQuestions();
    return;
  }
  if (!taken.some((each) => key(each) === key(calculation))) taken.push(calculation);
  showTaken();
  openQuestions();
  announce(`${calculation.words}: taken along to the next question.`);
}

function showTaken() {
  byId("taken").hidden = !taken.length;
  byId("chips").replaceChildren(...taken.map((calculation) => {
    const remove = button("Remove", () => {
      taken = taken.filter((each) => each !== calculation);
      showTaken();
      announce("Removed.");
      box.focus();
    });
    remove.setAttribute("aria-label", `Remove ${calculation.words}`);
    return element("li", "chip", element("span", "", calculation.words), remove);
  }));
}

// ---- Asking ----

function requestFor(turn, cache) {
  const messages = [];
  for (const earlier of turn.history) {
    messages.push({ role: "user", content: earlier.question }, { role: "assistant", content: earlier.text });
  }
  messages.push({ role: "user", content: turn.question });
  const calculations = turn.calculations.map(({ name, inputs }) => ({ name, inputs }));
  return {
    messages,
    cache,
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
  const turn = { ...asked, text: "", complete: false, medical: null };
  turns.push(turn);
  showClearButton();
  const again = (how) => () => {
    if (running) announce("Another answer is being written. Wait for it, or stop it.");
    else {
      ask(asked, how);
      box.focus();
    }
  };
  const card = new Card(turn);
  card.showNotices(server);
  answers.append(card.article);
  const mine = new AbortController();
  setRunning(mine);
  announce("Question sent.");
  showNews(card.article);
  const speaker = new Speaker(server.demo ? "en" : turn.language);
  let end;
  try {
    await loadStatus(mine.signal);
    card.showNotices(server);
    if (server.demo && turn.history.length) throw new Failure(ALONE, false);
    const show = shower(turn, card, speaker, again("retry"));
    const reason = await readAnswer(requestFor(turn, cache), mine.signal, show);
    end = () => finishWell(turn, card, reason, again(cache));
  } catch (error) {
    end = () => finishBadly(turn, card, error, again(cache));
  }
  mine.abort(); // whatever ended it, the server must not go on writing
  speaker.finish();
  const follows = nearTheEnd();
  end();
  if (running === mine) setRunning(null);
  if (follows) showNews(card.article);
}

// What to do with each thing that comes from the server.
function shower(turn, card, speaker, anew) {
  return {
    doing: (what) => { if (card.say(what)) announce(what); },
    opening: (medical) => {
      card.opening(medical, anew);
      if (medical.cached) announce("Saved answer.");
    },
    closing: (medical) => { turn.medical = medical; },
    text: (text) => {
      const follows = nearTheEnd();
      turn.text += text;
      card.write(turn.text);
      card.say("Writing. Numbers are checked at the end");
      speaker.add(text);
      if (follows) showNews(card.article);
    },
  };
}

function finishWell(turn, card, reason, again) {
  const numbers = card.verdicts(turn.text, turn.medical);
  if (reason === "stop") {
    turn.complete = true;
    card.finish();
    announce(`The answer is complete. ${numbers}`.trim());
  } else {
    card.problem("This answer reached its longest allowed length and is incomplete. "
      + "Ask for one part of it at a time.", null);
    announce(`The answer is incomplete: it reached its longest allowed length. ${numbers}`.trim());
  }
}

function finishBadly(turn, card, error, again) {
  const unchecked = /\d/.test(turn.text) ? ` ${UNCHECKED_NUMBERS}` : "";
  if (error.name === "AbortError") {
    const words = turn.text ? `You stopped this answer. It is incomplete.${unchecked}` : "You stopped this question.";
    card.problem(words, again);
    announce(words);
    return;
  }
  const known = error instanceof Failure;
  const words = (known ? error.message : "This page met a fault of its own. Reload it, then ask again.") + unchecked;
  card.problem(words, known && error.canAskAgain ? again : null);
  announce(words);
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

function showClearButton() {
  byId("clear").hidden = false;
}

function clearPage() {
  if (!window.confirm("Clear all questions, answers and calculations on this page?")) return;
  if (running) running.abort();
  turns = [];
  taken = [];
  showTaken();
  clearCalculators(use, showClearButton);
  answers.replaceChildren();
  byId("spoken").replaceChildren();
  byId("welcome").hidden = false;
  byId("clear").hidden = true;
  setRunning(null);
  announce("The page is cleared.");
  if (!form.hidden) box.focus();
  else byId("show-calculators").focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const question = box.value.trim();
  if (running) return;
  if (!/[\p{L}\p{N}\p{P}\p{S}]/u.test(question)) { // also when there are only characters nobody sees
    announce("Write a question first.");
    box.focus();
    return;
  }
  const asked = { question, language: language.value, calculations: taken, history: historyForFollowUp() };
  box.value = "";
  taken = [];
  showTaken();
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
  if (event.key === "Escape" && !form.hidden) stop();
});

byId("stop").addEventListener("click", stop);
byId("clear").addEventListener("click", clearPage);
byId("show-questions").addEventListener("click", openQuestions);
byId("show-calculators").addEventListener("click", openCalculators);
language.addEventListener("change", chooseLanguage);

// What is scrolled to must not lie under the question box.
new ResizeObserver(() => {
  document.documentElement.style.scrollPaddingBottom = `${form.offsetHeight + 12}px`;
}).observe(form);

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
setInterval(watchCondition, CONDITION_EVERY_MS);
