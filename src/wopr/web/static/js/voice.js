// Push to talk: the microphone as a WAV of 16 kHz, one channel, 16 bits, made in the browser.

import { resample } from "./resample.js";

const RATE = 16000;
const TAIL_MS = 200; // People let go while the last sound is still on its way through the sound card.
// What browsers do to sound for calls between people changes words for a recognizer, and nothing plays that could echo.
const AS_IT_IS = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
const SECONDS_MIN = 0.25;
const SECONDS_MAX = 290; // 16 kHz of 16 bits for this long stays under the 10 MB that a recording may have.

export class Recorder {
  constructor() {
    this.chunks = [];
    this.samples = 0;
  }

  // Resolves once the microphone is heard: everything slow is got ready before or beside it, so that no word is lost.
  async start() {
    this.context = new AudioContext();
    const worklet = this.context.audioWorklet.addModule(new URL("./voice-worklet.js", import.meta.url));
    const asked = navigator.mediaDevices.getUserMedia({ audio: AS_IT_IS });
    try {
      [this.stream] = await Promise.all([asked, worklet]);
    } catch (problem) {
      asked.then(hangUp, () => undefined);
      this.context.close();
      throw problem;
    }
    const source = this.context.createMediaStreamSource(this.stream);
    this.node = new AudioWorkletNode(this.context, "wopr-recorder", { numberOfOutputs: 0 });
    this.node.port.onmessage = (message) => {
      if (this.samples > SECONDS_MAX * this.context.sampleRate) return;
      this.chunks.push(message.data);
      this.samples += message.data.length;
    };
    source.connect(this.node);
    await this.context.resume();
    this.ready = true;
    if (this.ended) this.release();
  }

  // The recording as a Blob, or null when it was too short to mean anything.
  async stop() {
    this.ended = true;
    if (!this.ready) return null;
    const rate = this.context.sampleRate;
    if (this.samples < rate * SECONDS_MIN) {
      this.release();
      return null;
    }
    await new Promise((done) => setTimeout(done, TAIL_MS));
    this.release();
    return wav(resample(joined(this.chunks, this.samples), rate, RATE));
  }

  release() {
    hangUp(this.stream);
    this.node.port.onmessage = null;
    this.context.close();
  }
}

function hangUp(stream) {
  for (const track of stream.getTracks()) track.stop();
}

function joined(chunks, length) {
  const all = new Float32Array(length);
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}

export function wav(samples) {
  const bytes = new DataView(new ArrayBuffer(44 + samples.length * 2));
  const text = (at, words) => [...words].forEach((letter, index) => bytes.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  bytes.setUint32(4, 36 + samples.length * 2, true);
  text(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true);
  bytes.setUint16(20, 1, true);
  bytes.setUint16(22, 1, true);
  bytes.setUint32(24, RATE, true);
  bytes.setUint32(28, RATE * 2, true);
  bytes.setUint16(32, 2, true);
  bytes.setUint16(34, 16, true);
  text(36, "data");
  bytes.setUint32(40, samples.length * 2, true);
  samples.forEach((value, index) => {
    const cut = Math.max(-1, Math.min(1, value));
    bytes.setInt16(44 + index * 2, cut < 0 ? cut * 0x8000 : cut * 0x7fff, true);
  });
  return new Blob([bytes.buffer], { type: "audio/wav" });
}
