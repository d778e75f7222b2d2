// Speaking to a bot and being read to. What was heard goes into the field, to be corrected before it is sent; a press on the
// microphone or on Esc silences what is being read at once.

import { Recorder } from "./voice.js";

export class Voice {
  constructor(chat) {
    this.chat = chat;
    this.base = chat.base;
    this.field = chat.field;
    this.note = chat.note;
    this.audio = new Audio();
    this.mic = chat.querySelector("[data-mic]");
    this.toggle = chat.querySelector("[data-voice]");
    this.readsAloud = localStorage.getItem("wopr-read-aloud") === "on";
    this.toggle.setAttribute("aria-pressed", String(this.readsAloud));
    this.toggle.addEventListener("click", () => {
      this.readsAloud = !this.readsAloud;
      localStorage.setItem("wopr-read-aloud", this.readsAloud ? "on" : "off");
      this.toggle.setAttribute("aria-pressed", String(this.readsAloud));
      if (!this.readsAloud) this.silence();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.silence();
    });
    const begin = (event) => {
      event.preventDefault();
      this.record();
    };
    this.mic.addEventListener("pointerdown", begin);
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) this.mic.addEventListener(name, () => this.transcribe());
    this.mic.addEventListener("keydown", (event) => {
      if ((event.key === " " || event.key === "Enter") && !event.repeat) begin(event);
    });
    this.mic.addEventListener("keyup", () => this.transcribe());
  }

  async record() {
    if (this.recorder) return;
    this.silence();
    const recorder = new Recorder();
    this.recorder = recorder;
    this.note.textContent = "One moment…";
    try {
      await recorder.start();
      if (this.recorder !== recorder) return; // Let go meanwhile.
      this.mic.classList.add("recording");
      this.note.textContent = "Listening… let go to write it down";
    } catch (problem) {
      if (this.recorder && this.recorder !== recorder) return;
      this.endRecording(
        problem.name === "NotFoundError"
          ? "No microphone was found. Plug one in, or type instead."
          : "The microphone is not available. Allow it in the browser's address bar.",
      );
    }
  }

  async transcribe() {
    const recorder = this.recorder;
    if (!recorder) return;
    this.recorder = null;
    const wav = await recorder.stop();
    if (!wav) return this.endRecording("Hold the button while you speak.");
    this.mic.classList.remove("recording");
    this.note.textContent = "Writing it down…";
    try {
      const answer = await fetch(`${this.base}/transcriptions`, {
        method: "POST",
        headers: { "content-type": "audio/wav", accept: "application/json" },
        body: wav,
      });
      const read = await answer.json();
      if (!answer.ok) throw new Error(read.error?.message);
      this.field.value = [this.field.value.trim(), read.text].filter(Boolean).join(" ");
      this.field.dispatchEvent(new Event("input"));
      this.field.focus();
      return this.endRecording(read.text ? "Correct it if needed, then send." : "Nothing was understood. Try again, a little louder.");
    } catch (problem) {
      return this.endRecording(problem.message || "It could not be written down. Try again.");
    }
  }

  endRecording(words) {
    this.recorder = null;
    this.mic.classList.remove("recording");
    this.note.textContent = words;
  }

  // The button that begins it ends it: a phone has no Esc.
  press(turn) {
    if (this.speaking === turn) this.silence();
    else this.speak(turn);
  }

  async speak(turn) {
    this.silence();
    this.mark(turn);
    this.audio.src = `${this.base}/turns/${turn}/audio`;
    this.note.textContent = matchMedia("(hover: none)").matches ? "Reading aloud" : "Reading aloud · Esc silences";
    this.audio.onended = () => this.silence();
    try {
      await this.audio.play();
    } catch (problem) {
      if (problem.name === "AbortError") return; // Silenced before it began.
      this.silence();
      this.note.textContent = "It can't be read aloud at the moment.";
    }
  }

  silence() {
    if (!this.speaking) return;
    this.audio.pause();
    this.audio.removeAttribute("src");
    this.note.textContent = "";
    this.mark(null);
  }

  mark(turn) {
    this.speaking = turn;
    for (const button of this.chat.querySelectorAll("[data-act=speak]")) {
      button.querySelector("span").textContent = button.dataset.turn === turn ? "Silence" : "Listen";
    }
  }
}
