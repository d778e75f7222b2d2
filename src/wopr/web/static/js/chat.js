// The conversation. A turn lives at the bot: this element starts turns and attaches to running ones. Events carry numbers;
// what was seen is never shown twice, and after a lost connection the rest is asked for by the last number.

import { codeButtons, copyText } from "./copy.js";
import { Voice } from "./chat-voice.js";
import { randomId } from "./ids.js";

const RETRY_MS_MIN = 250;
const RETRY_MS_MAX = 8000;
const ANSWER_RETRIES_MAX = 10; // about a minute
const RECONNECTING = "Reconnecting…";
const FINAL = ["completed", "failed", "cancelled"];
const PASSING = ["starting", "stopping"];
const LOOK_AGAIN_MS = 3000;

class Chat extends HTMLElement {
  connectedCallback() {
    this.bot = this.dataset.bot;
    this.name = this.dataset.name;
    this.base = `/bots/${this.bot}`;
    this.history = this.querySelector(".history");
    this.list = this.querySelector(".messages");
    this.form = this.querySelector("form.composer");
    this.field = this.querySelector("textarea");
    this.note = this.querySelector("[data-note]");
    this.stopButton = this.querySelector("[data-stop]");
    this.problems = this.querySelector("[data-problems]");
    this.turns = new Set();
    this.waitForBot();
    if (!this.list) return;
    this.listen();
    codeButtons(this.list);
    this.channel = new BroadcastChannel(`wopr-${this.bot}`);
    this.channel.onmessage = (message) => this.fromOtherTab(message.data);
    this.draftKey = `wopr-draft-${this.bot}`;
    this.field.value ||= sessionStorage.getItem(this.draftKey) ?? "";
    this.history.scrollTop = this.history.scrollHeight;
    if (this.dataset.running) this.attach(this.dataset.running);
    if (matchMedia("(min-width: 60rem)").matches) this.field.focus({ preventScroll: true });
  }

  disconnectedCallback() {
    this.channel?.close();
    this.source?.close();
  }

  listen() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send(this.field.value);
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.form.requestSubmit();
    });
    this.field.addEventListener("input", () => sessionStorage.setItem(this.draftKey, this.field.value));
    this.stopButton.addEventListener("click", () => this.stop());
    this.addEventListener("click", (event) => this.clicked(event));
    this.addEventListener("htmx:afterSwap", (event) => event.target.scrollIntoView?.({ block: "nearest" }));
    this.voice = new Voice(this);
  }

  // --- sending

  async send(text) {
    const words = text.trim();
    if (!words || this.busy) return;
    this.voice.silence();
    this.problems.replaceChildren();
    document.querySelector(".chat-page > .inner > .banner.good")?.remove(); // It spoke of what came before.
    const turn = randomId();
    this.showQuestion(turn, words);
    this.showAnswer(turn);
    this.setBusy(turn);
    try {
      const started = await this.post("/turns", { text: words, conversation_id: this.conversation, turn_id: turn });
      this.field.value = "";
      sessionStorage.removeItem(this.draftKey);
      this.setConversation(started.conversation_id, turn, words);
      this.channel.postMessage({ turn, conversation: started.conversation_id, words });
      this.attach(turn);
    } catch (problem) {
      for (const part of this.list.querySelectorAll(`[data-question="${turn}"], [data-answer="${turn}"]`)) part.remove();
      this.field.value = words;
      this.setBusy(null);
      this.showProblem(problem);
    }
  }

  get conversation() {
    return this.dataset.conversation === "new" ? null : this.dataset.conversation;
  }

  setConversation(id, turn, words) {
    this.dataset.conversation = id;
    this.form.elements.conversation_id.value = id;
    this.listConversation(id, words);
    history.replaceState(null, "", `${this.base}?c=${encodeURIComponent(id)}&turn=${encodeURIComponent(turn)}`);
  }

  // A conversation begun on this page appears in the list at once.
  listConversation(id, words) {
    const list = document.querySelector(".thread-list");
    const address = `${this.base}?c=${encodeURIComponent(id)}`;
    if (!list || [...list.querySelectorAll("a")].some((link) => link.getAttribute("href") === address)) return;
    const link = document.createElement("a");
    link.href = address;
    link.setAttribute("aria-current", "page");
    link.textContent = words;
    const moment = document.createElement("time");
    moment.dateTime = new Date().toISOString();
    moment.textContent = "just now";
    link.append(moment);
    const item = document.createElement("li");
    item.append(link);
    list.querySelector("li.muted")?.remove();
    list.prepend(item);
  }

  async post(path, body) {
    const answer = await fetch(this.base + path, {
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/json" },
      body: JSON.stringify(body),
    });
    const read = await answer.json().catch(() => ({}));
    if (answer.ok) return read;
    throw Object.assign(new Error(read.error?.message ?? "The message could not be sent."), read.error, { status: answer.status });
  }

  async stop() {
    if (!this.busy) return;
    this.note.textContent = "Stopping…";
    try {
      await this.post(`/turns/${this.busy}/cancel`);
    } catch {
      this.note.textContent = "It could not be stopped. Try again.";
    }
  }

  // --- receiving

  attach(turn) {
    this.turns.add(turn);
    const place = this.showAnswer(turn);
    place.textContent = "";
    this.setBusy(turn);
    this.follow({ turn, place, last: 0, text: "", retries: 0, speak: this.voice.readsAloud });
  }

  follow(state) {
    const source = new EventSource(`${this.base}/turns/${state.turn}/events?after=${state.last}`);
    this.source = source;
    const on = (name, act) =>
      source.addEventListener(name, (event) => {
        const number = Number(event.lastEventId);
        if (number && number <= state.last) return;
        state.last = number || state.last;
        this.found(state);
        act(JSON.parse(event.data || "{}"));
      });
    on("started", (data) => data.user_text && this.showQuestion(state.turn, data.user_text));
    on("transcript", (data) => this.showQuestion(state.turn, data.text));
    on("delta", (data) => this.grow(state, data.text));
    on("restarted", () => this.clear(state));
    for (const name of FINAL) on(name, () => this.finish(state, source));
    source.onopen = () => this.found(state);
    source.onerror = () => this.lost(state, source);
  }

  found(state) {
    state.retries = 0;
    if (this.note.textContent === RECONNECTING) this.note.textContent = "";
  }

  // Not left to the browser, which gives up when it is answered with an error, as by a platform that is starting.
  lost(state, source) {
    source.close();
    this.later(state, () => this.probe(state));
  }

  later(state, act) {
    this.note.textContent = RECONNECTING;
    setTimeout(act, Math.min(RETRY_MS_MIN * 2 ** state.retries, RETRY_MS_MAX));
    state.retries += 1;
  }

  // A turn that ended while we were away has no stream any more in some cases; its answer tells.
  async probe(state) {
    try {
      const answer = await fetch(`${this.base}/turns/${state.turn}`, { headers: { accept: "application/json" } });
      if (answer.status === 401) return location.reload();
      if (answer.status === 404) return this.gone(state);
      if (answer.ok && (await answer.json()).state !== "running") return this.finish(state, null);
    } catch {
      // Still away.
    }
    return this.follow(state);
  }

  gone(state) {
    this.note.textContent = "";
    state.place.classList.remove("streaming");
    state.place.closest("[data-answer]").removeAttribute("aria-busy");
    this.setBusy(null);
    this.showProblem({ message: "This answer is gone.", remedy: "The bot no longer knows of it. Ask again." });
  }

  grow(state, piece) {
    state.text += piece;
    if (this.dataset.streaming === "off") return;
    const stick = this.history.scrollHeight - this.history.scrollTop - this.history.clientHeight < 120;
    state.place.append(piece);
    if (stick) this.history.scrollTop = this.history.scrollHeight;
  }

  // The answer broke off and is another one now.
  clear(state) {
    state.text = "";
    state.place.textContent = "";
  }

  async finish(state, source) {
    source?.close();
    const item = state.place.closest("[data-answer]");
    try {
      const answer = await fetch(`${this.base}/turns/${state.turn}/answer`);
      if (!answer.ok) throw Object.assign(new Error("no answer"), { status: answer.status });
      const stick = this.history.scrollHeight - this.history.scrollTop - this.history.clientHeight < 200;
      item.querySelector(".answer").innerHTML = await answer.text(); // Cleaned by the server.
      window.htmx?.process(item);
      codeButtons(item);
      if (stick) this.history.scrollTop = this.history.scrollHeight;
    } catch ({ status = 503 }) {
      if (status >= 500 && state.retries < ANSWER_RETRIES_MAX) return this.later(state, () => this.finish(state, null));
      state.place.classList.remove("streaming");
    }
    this.note.textContent = "";
    item.removeAttribute("aria-busy");
    this.querySelector("[data-announce]").textContent = item.querySelector(".prose, .answer").textContent;
    if (this.busy === state.turn) this.setBusy(null);
    document.dispatchEvent(new CustomEvent("wopr:answered"));
    if (state.speak) this.voice.speak(state.turn);
  }

  fromOtherTab({ turn, conversation, words }) {
    if (this.turns.has(turn)) return;
    if (this.conversation !== null && conversation !== this.conversation) return;
    if (this.conversation === null) this.setConversation(conversation, turn, words);
    this.showQuestion(turn, words);
    this.attach(turn);
  }

  // --- showing

  showQuestion(turn, words) {
    if (this.list.querySelector(`[data-question="${turn}"]`)) return;
    this.querySelector("[data-hello]")?.remove();
    const item = document.createElement("li");
    item.className = "message user";
    item.dataset.question = turn;
    const bubble = document.createElement("div");
    bubble.className = "bubble";
    bubble.textContent = words;
    item.append(hush("You:"), bubble);
    const answer = this.list.querySelector(`[data-answer="${turn}"]`);
    if (answer) answer.before(item);
    else this.list.append(item);
    this.history.scrollTop = this.history.scrollHeight;
  }

  showAnswer(turn) {
    let item = this.list.querySelector(`[data-answer="${turn}"]`);
    if (!item) {
      item = document.createElement("li");
      item.className = "message assistant";
      item.dataset.answer = turn;
      const avatar = document.createElement("span");
      avatar.className = "avatar small";
      avatar.ariaHidden = "true";
      avatar.textContent = this.name.slice(0, 1).toUpperCase();
      const answer = document.createElement("div");
      answer.className = "answer";
      item.append(avatar, hush(`${this.name}:`), answer);
      this.list.append(item);
    }
    item.setAttribute("aria-busy", "true");
    const answer = item.querySelector(".answer");
    let place = answer.querySelector(".streaming");
    if (!place) {
      place = document.createElement("div");
      place.className = "streaming";
      answer.replaceChildren(place);
    }
    this.history.scrollTop = this.history.scrollHeight;
    return place;
  }

  showProblem(problem) {
    const banner = document.createElement("div");
    banner.className = "banner bad";
    banner.setAttribute("role", "alert");
    const words = document.createElement("div");
    words.className = "grow";
    const strong = document.createElement("strong");
    strong.textContent = problem.message;
    const remedy = document.createElement("p");
    remedy.textContent = problem.remedy || "Your message is still in the field; try again.";
    words.append(strong, remedy);
    banner.append(words);
    if (problem.status === 402) banner.append(button("/billing", "Top up"));
    if (problem.status === 401) banner.append(button("/sign-in", "Sign in"));
    this.problems.replaceChildren(banner);
  }

  setBusy(turn) {
    this.busy = turn;
    // A button that goes away under the keyboard's focus hands it to the field.
    const send = this.querySelector("[data-send]");
    if ((turn ? send : this.stopButton).matches(":focus-visible")) this.field.focus();
    this.stopButton.hidden = !turn;
    send.disabled = Boolean(turn);
  }

  clicked(event) {
    const say = event.target.closest("[data-say]");
    if (say) {
      if (say.matches(":focus-visible")) this.field.focus();
      return this.send(say.dataset.say);
    }
    const act = event.target.closest("[data-act]");
    if (act?.dataset.act === "copy") {
      const prose = act.closest(".message").querySelector(".prose");
      return copyText(wordsOf(prose), act, prose);
    }
    if (act?.dataset.act === "speak") return this.voice.press(act.dataset.turn);
    return undefined;
  }

  // The page shows what the bot was when it was made. When the bot comes to rest in another state, it is made anew,
  // unless one can talk to it already. Asked at once too: the state may have changed before this script ran.
  waitForBot() {
    const shown = this.dataset.state;
    const look = () => {
      const state = document.querySelector("#bot-state")?.dataset.state;
      if (!state || state === shown || PASSING.includes(state)) return;
      if (!this.list || state !== "running") return location.reload();
      looking.disconnect();
      document.dispatchEvent(new CustomEvent("wopr:spending")); // From now on it costs.
    };
    const looking = new MutationObserver(look);
    looking.observe(document.querySelector(".bot-head"), { childList: true, subtree: true });
    look();
    if (this.querySelector("[data-look-again]")) setTimeout(() => location.reload(), LOOK_AGAIN_MS);
  }
}

// What an answer says, without the buttons that we put beside its code.
function wordsOf(prose) {
  const buttons = [...prose.querySelectorAll(".code > button")];
  for (const one of buttons) one.hidden = true;
  const words = prose.innerText;
  for (const one of buttons) one.hidden = false;
  return words;
}

function hush(words) {
  const span = document.createElement("span");
  span.className = "hush";
  span.textContent = words;
  return span;
}

function button(href, words) {
  const link = document.createElement("a");
  link.className = "button";
  link.href = href;
  link.textContent = words;
  return link;
}

customElements.define("wopr-chat", Chat);
