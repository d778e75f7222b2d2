// Push to talk: the microphone as a WAV of 16 kHz, one channel, 16 bits, made in the browser.

const RATE = 16000;
const SECONDS_MIN = 0.25;
const SECONDS_MAX = 290; // 16 kHz of 16 bits for this long stays under the 10 MB that a recording may have.

export class Recorder {
  constructor() {
    this.chunks = [];
    this.samples = 0;
  }

  async start() {
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true } });
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule(new URL("./voice-worklet.js", import.meta.url));
    const source = this.context.createMediaStreamSource(this.stream);
    this.node = new AudioWorkletNode(this.context, "wopr-recorder", { numberOfOutputs: 0 });
    this.node.port.onmessage = (message) => {
      if (this.samples > SECONDS_MAX * this.context.sampleRate) return;
      this.chunks.push(message.data);
      this.samples += message.data.length;
    };
    source.connect(this.node);
    this.ready = true;
    if (this.ended) this.release();
  }

  // The recording as a Blob, or null when it was too short to mean anything.
  async stop() {
    this.ended = true;
    if (!this.ready) return null;
    const rate = this.context.sampleRate;
    this.release();
    if (this.samples < rate * SECONDS_MIN) return null;
    return wav(resample(joined(this.chunks, this.samples), rate));
  }

  release() {
    for (const track of this.stream.getTracks()) track.stop();
    this.node.port.onmessage = null;
    this.context.close();
  }
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

// Average over each step: a plain low-pass that keeps speech clear.
export function resample(samples, rate) {
  const step = rate / RATE;
  const out = new Float32Array(Math.floor(samples.length / step));
  for (let index = 0; index < out.length; index += 1) {
    const from = Math.floor(index * step);
    const to = Math.max(from + 1, Math.min(samples.length, Math.floor((index + 1) * step)));
    let sum = 0;
    for (let at = from; at < to; at += 1) sum += samples[at];
    out[index] = sum / (to - from);
  }
  return out;
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
