// One question with its answer on the page.

import { button, element, withUnitsKept } from "./dom.js";
import { NOT_CHECKED, askedNumbers, dangerBanner, kindLine, noteList, savedLine } from "./medical.js";
import { contradictions, markedAnswer, summary } from "./numbers.js";

export const UNCHECKED_NUMBERS = "The numbers in this answer were not checked.";

export class Card {
  constructor(turn) {
    this.article = element("article");
    const question = element("h2", "", turn.question);
    question.lang = turn.language;
    this.about = element("div", "about");
    for (const calculation of turn.calculations) {
      this.about.append(element("p", "with", `Numbers checked against: ${calculation.words}`));
    }
    this.alerts = element("div", "alerts");
    this.text = element("p", "text");
    this.doing = element("p", "doing", "Sending your question");
    this.body = element("div", "body", this.text, this.doing);
    this.footer = element("footer");
    this.article.append(question, this.alerts, this.about, this.body, this.footer);
  }
  showNotices(server) {
    this.footer.replaceChildren();
    if (server.demo) this.footer.append(element("p", "demo-line", server.demo_notice));
    this.footer.append(element("p", "", server.notice));
  }
  // What is known before the first word.
  opening(medical, again) {
    this.about.prepend(kindLine(medical));
    if (!medical.danger_checked) this.about.append(element("p", "unchecked", NOT_CHECKED));
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
    if (!medical) {
      this.text.after(element("p", "summary", UNCHECKED_NUMBERS));
      return UNCHECKED_NUMBERS;
    }
    const warning = contradictions(medical.numbers);
    if (warning) this.alerts.append(warning);
    this.text.classList.add("checked");
    this.text.replaceChildren(...markedAnswer(text, medical.numbers));
    const words = summary(medical.numbers_summary);
    if (words) this.text.after(element("p", "summary", words));
    return words;
  }
  say(what) {
    if (this.doing.textContent === what) return false;
    this.doing.textContent = what;
    return true;
  }
  finish() {
    this.doing.remove();
  }
  problem(words, again) {
    this.finish();
    const problem = element("div", "problem", element("p", "", words));
    if (again) problem.append(button("Ask again", again));
    this.body.append(problem);
  }
}
