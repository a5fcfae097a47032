"use strict";
/* Questions to a source, and what is said when one has no answer. */

const $ = (id) => document.getElementById(id);

/* The source of a page that is served: questions to the server beside the page. */
class Served {
  constructor(base) {
    this.base = base;
  }

  async ask(name, ...args) {
    let answer;
    try {
      answer = await fetch(this.base + name, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(args),
      });
    } catch {
      throw new Error("The server does not answer: start `pyrovae explore` again and open its new address.");
    }
    const text = await answer.text();
    let said = {};
    try {
      said = JSON.parse(text);
    } catch {
      said = { error: text.trim() };
    }
    if (!answer.ok) throw new Error(said.error || `The server answered ${answer.status}.`);
    return said;
  }

  world() { return this.ask("world"); }
  datum(i) { return this.ask("datum", i); }
  decode(z, at) { return this.ask("decode", z, at); }
  path(start, end, n, rows) { return this.ask("path", start, end, n, rows); }
  density(z, at) { return this.ask("density", z, at); }
  measure(start) { return this.ask("measure", start); }
  plane(name) { return this.ask("plane", name); }
}

/* Run a question at a time, and after it the last one that came meanwhile; its trouble is its own. */
function latest(of, work) {
  let running = false, next = null;
  return async function run(...args) {
    next = args;
    if (running) return;
    running = true;
    while (next) {
      const now = next;
      next = null;
      try {
        await work(...now);
        trouble(null, of);
      } catch (error) {
        trouble(error.message, of);
      }
    }
    running = false;
  };
}

const troubles = new Map();

/* Say what is wrong with one of the things that are shown; null if nothing is any more. */
function trouble(message, of = "page") {
  if (message) troubles.set(of, message);
  else troubles.delete(of);
  $("trouble").hidden = !troubles.size;
  $("trouble").textContent = [...new Set(troubles.values())].join(" ");
}
