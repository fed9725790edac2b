// The conversation's id at the server. By it the server keeps what it has read of a conversation for the next question,
// and the questions that a power cut interrupted. Only ids are kept in the browser, never a word.

import { newSession, readJson, send } from "./server.js";

const KEPT_AS = "edgemed.sessions"; // of the last conversations in this browser: after a power cut they are asked about
const MOST_KEPT = 8;

let current = null; // the id of this conversation
let known = true; // whether this server has sessions

// The id to send with a question, made now if need be; null where the server has no sessions.
export async function sessionId() {
  if (!current && known) {
    try {
      current = (await newSession()).id;
      keep([current, ...kept().filter((id) => id !== current)]);
    } catch (error) {
      known = error.code !== "not_found"; // any other fault: the question goes without, and the next one tries again
    }
  }
  return current;
}

// The server does not know it any more.
export function dropSession() {
  current = null;
}

// Ends this conversation: what the server remembers of it is erased.
export async function endSession() {
  const id = current;
  current = null;
  if (id) await forget(id);
}

// A question of this conversation is asked again by hand: it needs no list.
export async function questionAskedAgain() {
  if (current) await quietly(send("DELETE", `${addressOf(current)}/unfinished`));
}

// Questions of earlier conversations that were cut off: [{id, asked, question}].
export async function interrupted() {
  const found = [];
  for (const id of kept()) {
    const session = await read(id);
    if (session === "unknown") keep(kept().filter((each) => each !== id));
    for (const each of session?.unfinished || []) {
      if (each.state === "interrupted") found.push({ id, asked: each.asked, question: each.question });
    }
  }
  return found;
}

export async function clearInterrupted(ids) {
  for (const id of new Set(ids)) {
    await quietly(send("DELETE", `${addressOf(id)}/unfinished`));
    if (id !== current) keep(kept().filter((each) => each !== id));
  }
}

async function read(id) {
  try {
    return await readJson(addressOf(id));
  } catch (error) {
    return error.code === "session_unknown" ? "unknown" : null;
  }
}

async function forget(id) {
  await quietly(send("DELETE", addressOf(id)));
  keep(kept().filter((each) => each !== id));
}

// The server forgets an unused conversation by itself.
async function quietly(promise) {
  try {
    await promise;
  } catch {
    // nothing is lost but the wait
  }
}

const addressOf = (id) => `/api/sessions/${encodeURIComponent(id)}`;

function kept() {
  try {
    const ids = JSON.parse(localStorage.getItem(KEPT_AS) || "[]");
    return Array.isArray(ids) ? ids.filter((id) => typeof id === "string") : [];
  } catch {
    return [];
  }
}

function keep(ids) {
  try {
    if (ids.length) localStorage.setItem(KEPT_AS, JSON.stringify(ids.slice(0, MOST_KEPT)));
    else localStorage.removeItem(KEPT_AS);
  } catch {
    // a browser that keeps nothing: what was interrupted is then asked again from memory
  }
}
