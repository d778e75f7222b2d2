// Lines as a bot writes them. After a lost connection the tail comes again; a line that is here already is left out.

import { clockTime } from "./site.js";

const LINES_MAX = 3000;

class Logs extends HTMLElement {
  connectedCallback() {
    this.box = this.querySelector(".log");
    this.list = this.querySelector(".lines");
    this.live = this.querySelector("[data-live]");
    this.empty = this.querySelector("[data-empty]");
    this.form = this.querySelector("form");
    this.all = [];
    this.seen = new Map();
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => this.filter());
    this.box.scrollTop = this.box.scrollHeight;
    this.connect();
  }

  disconnectedCallback() {
    this.source?.close();
  }

  connect() {
    this.source = new EventSource(this.dataset.src);
    this.round = new Map();
    this.source.onopen = () => {
      this.round = new Map();
      this.say("Live", "good");
    };
    this.source.addEventListener("line", (event) => this.take(JSON.parse(event.data)));
    this.source.onerror = () => {
      this.say("Reconnecting", "warn busy");
      if (this.source.readyState !== EventSource.CLOSED) return;
      setTimeout(() => this.connect(), 3000);
    };
  }

  say(words, tone) {
    this.live.textContent = words;
    this.live.className = `badge ${tone}`;
  }

  // Equal lines are counted: the second of two equal ones is new only when it was not here before.
  take(line) {
    const key = `${line.at}|${line.stream}|${line.text}`;
    const nth = (this.round.get(key) ?? 0) + 1;
    this.round.set(key, nth);
    if (nth <= (this.seen.get(key) ?? 0)) return;
    this.seen.set(key, nth);
    if (!this.all.length) this.list.replaceChildren(); // The first live line takes over from what the server drew.
    this.all.push(line);
    if (this.all.length > LINES_MAX) this.all.splice(0, this.all.length - LINES_MAX);
    if (this.matches(line)) this.draw([line]);
  }

  get query() {
    return this.form.elements.q.value.trim().toLowerCase();
  }

  get stream() {
    return this.form.elements.stream.value;
  }

  matches(line) {
    return words(line.text).toLowerCase().includes(this.query) && (!this.stream || line.stream === this.stream);
  }

  draw(lines) {
    const stick = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 60;
    this.list.append(...lines.map(row));
    while (this.list.children.length > LINES_MAX) this.list.firstElementChild.remove();
    this.empty.hidden = this.list.children.length > 0;
    this.empty.textContent = this.query || this.stream ? "No line matches." : "Nothing written yet.";
    if (stick) this.box.scrollTop = this.box.scrollHeight;
  }

  filter() {
    const parameters = new URLSearchParams();
    if (this.query) parameters.set("q", this.form.elements.q.value.trim());
    if (this.stream) parameters.set("stream", this.stream);
    const search = parameters.size ? `?${parameters}` : "";
    history.replaceState(null, "", location.pathname + search);
    this.querySelector("[data-download]").href = `${location.pathname}/download${search}`;
    this.list.replaceChildren();
    this.draw(this.all.filter((line) => this.matches(line)));
    this.box.scrollTop = this.box.scrollHeight;
  }
}

// The same as log_words on the server: a JSON line becomes its event and its fields.
const LEFT_OUT = new Set(["at", "level", "event", "bot_id"]);

function words(text) {
  if (!text.startsWith("{")) return text;
  let fields;
  try {
    fields = JSON.parse(text);
  } catch {
    return text;
  }
  if (typeof fields.event !== "string") return text;
  const rest = Object.entries(fields).filter(([name, value]) => !LEFT_OUT.has(name) && value !== null);
  const shown = rest.map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  return [fields.event, shown.join(" ")].join("  ").trimEnd();
}

function row(line) {
  const item = document.createElement("li");
  item.className = line.stream === "stderr" ? "stderr" : "stdout";
  const time = document.createElement("time");
  time.dateTime = line.at ?? "";
  time.textContent = line.at ? clockTime(new Date(line.at)) : "";
  const from = document.createElement("span");
  from.className = "from";
  from.textContent = line.stream === "stderr" ? "err" : "out";
  const told = document.createElement("span");
  told.className = "words";
  told.textContent = words(line.text);
  item.append(time, from, told);
  return item;
}

customElements.define("wopr-logs", Logs);
