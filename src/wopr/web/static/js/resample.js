// Sound at another rate. Pure: the same numbers in, the same numbers out.
//
// Halving a rate folds everything above the new half rate back into what one hears (a hiss of 10 kHz becomes a tone of
// 6 kHz), and a recognizer takes that for speech. So the sound first passes a windowed-sinc low-pass; filter and
// interpolation are one step, with the kernel tabulated for PHASES places between two samples.

const REACH = 16; // Half the kernel's length, in samples of the lower rate.
const PASS = 0.9; // The filter's slope lies below the new half rate, not across it.
const PHASES = 256;

export function resample(samples, from, to) {
  if (from === to) return Float32Array.from(samples);
  const step = from / to;
  const cutoff = Math.min(1, 1 / step) * PASS;
  const reach = Math.ceil(REACH * Math.max(1, step));
  const kernels = Array.from({ length: PHASES }, (_, phase) => kernel(reach, cutoff, phase / PHASES));
  const out = new Float32Array(Math.floor(samples.length / step));
  for (let index = 0; index < out.length; index += 1) {
    const place = Math.round(index * step * PHASES);
    const centre = Math.floor(place / PHASES);
    const weights = kernels[place % PHASES];
    const first = centre - reach + 1;
    let sum = 0;
    for (let at = Math.max(0, -first); at < weights.length && first + at < samples.length; at += 1) {
      sum += weights[at] * samples[first + at];
    }
    out[index] = sum;
  }
  return out;
}

// Weights of the samples around a place that lies `offset` (0 to 1) behind the sample at index reach - 1; their sum is 1.
function kernel(reach, cutoff, offset) {
  const weights = new Float32Array(2 * reach);
  let sum = 0;
  for (let at = 0; at < weights.length; at += 1) {
    const away = at - (reach - 1) - offset;
    const turn = Math.PI * away * cutoff;
    const sinc = turn === 0 ? 1 : Math.sin(turn) / turn;
    weights[at] = sinc * (0.54 + 0.46 * Math.cos((Math.PI * away) / reach));
    sum += weights[at];
  }
  return weights.map((weight) => weight / sum);
}
