// What the window shows: questions, calculators or a slip, and how far it is scrolled.

import { announce, byId } from "./dom.js";

const VIEWS = ["questions", "calculators", "slip"];
const TABS = { questions: "show-questions", calculators: "show-calculators", slip: "show-questions" };

let left = {}; // how far each view was scrolled when it was left

const page = document.documentElement;

export const shownView = () => VIEWS.find((name) => !byId(name).hidden);

export function showView(name) {
  const before = shownView();
  if (before === name) return;
  left[before] = page.scrollTop;
  announce(""); // what was shown for some seconds belongs to the view before
  for (const each of VIEWS) byId(each).hidden = each !== name;
  byId("form").hidden = name !== "questions";
  document.body.classList.toggle("with-slip", name === "slip");
  byId(TABS[before]).removeAttribute("aria-current");
  byId(TABS[name]).setAttribute("aria-current", "page");
  page.scrollTop = name === "slip" ? 0 : left[name] || 0;
}

export function nearTheEnd() {
  return page.scrollHeight - page.clientHeight - page.scrollTop < 120;
}

// Scroll to what is new, but never so far that the question leaves the window: an answer is read from its start.
export function showNews(article) {
  if (!article || byId("questions").hidden) return;
  page.scrollTop = Math.min(page.scrollHeight, article.offsetTop - 8);
}

// What is scrolled to must not lie under the question box.
new ResizeObserver(() => {
  page.style.scrollPaddingBottom = `${byId("form").offsetHeight + 12}px`;
}).observe(byId("form"));
