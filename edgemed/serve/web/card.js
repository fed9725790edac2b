// One question with its answer on the page.

import { button, element, withUnitsKept } from "./dom.js";
import { askedNumbers, dangerBanner, kindLines, noteList, savedLine } from "./medical.js";
import { contradictions, markedAnswer, summaryOf } from "./numbers.js";
import { fromServer, put, putLabel, t, worded } from "./words.js";

export class Card {
  constructor(turn) {
    this.article = element("article");
    const question = element("h2", "", turn.question);
    question.lang = turn.language;
    this.about = element("div", "about");
    for (const calculation of turn.calculations) {
      this.about.append(worded("p", "with", "answer.with", { calculation: calculation.words }));
    }
    this.alerts = element("div", "alerts");
    this.text = element("p", "text");
    this.text.lang = turn.language;
    this.said = "";
    this.doing = element("p", "doing");
    this.say(["answer.sending"]);
    this.body = element("div", "body", this.text, this.doing);
    this.footer = element("footer");
    this.article.append(question, this.alerts, this.about, this.body, this.footer);
  }
  showNotices(server) {
    const lines = [fromServer("p", "notice", server.notice), worded("p", "not-reviewed", "page.not_reviewed")];
    if (server.demo) {
      lines.unshift(fromServer("p", "demo-line", server.demo_notice));
      this.text.lang = "en";
    }
    this.footer.replaceChildren(...lines);
  }
  // What is known before the first word.
  opening(medical, again) {
    this.about.prepend(...kindLines(medical));
    if (!medical.danger_checked) this.about.append(worded("p", "unchecked", "clinical.not_checked"));
    if (medical.notes.length) this.about.append(noteList(medical.notes));
    if (medical.danger_signs.length) this.alerts.append(dangerBanner(medical.danger_signs));
    if (medical.asked_numbers.length) this.alerts.append(askedNumbers(medical.asked_numbers));
    if (medical.cached) this.alerts.append(savedLine(medical.cached, again));
  }
  write(text) {
    this.text.textContent = withUnitsKept(text.trimStart());
  }
  // Each number with its verdict; returns what to say of them all. `medical` is null where the server gave none.
  verdicts(text, medical) {
    const words = medical ? summaryOf(medical.numbers_summary) : ["clinical.unchecked_numbers"];
    if (medical) {
      const warning = contradictions(medical.numbers);
      if (warning) this.alerts.append(warning);
      this.text.classList.add("checked");
      this.text.replaceChildren(...markedAnswer(text, medical.numbers));
    }
    if (words) this.text.after(worded("p", "summary", ...words));
    return words ? t(...words) : "";
  }
  // `what`: key and values; false where it is said already.
  say(what) {
    const words = t(...what);
    if (this.said === words) return false;
    this.said = words;
    put(this.doing, ...what);
    return true;
  }
  finish() {
    this.doing.remove();
  }
  // [key, onClick, class] of each thing that can be done with a finished answer.
  offer(actions) {
    const row = putLabel(element("div", "actions"), "aria-label", "answer.actions");
    row.setAttribute("role", "group");
    row.append(...actions.map((action) => button(...action)));
    this.body.append(row);
  }
  // `lines`: key and values of each sentence; `detail`: the server's own English message.
  problem(lines, again, detail = "") {
    this.finish();
    const words = element("p", "");
    for (const line of lines) words.append(worded("span", "", ...line), " ");
    const problem = element("div", "problem", words);
    if (detail) {
      const message = element("p", "", detail);
      message.lang = "en";
      problem.append(element("details", "detail", worded("summary", "", "error.detail"), message));
    }
    if (again) problem.append(button("answer.again", again));
    this.body.append(problem);
  }
}
