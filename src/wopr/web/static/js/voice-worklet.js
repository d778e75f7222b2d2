// Runs beside the sound card: hands each block of samples over, as it comes.

class WoprRecorder extends AudioWorkletProcessor {
  process(inputs) {
    const channel = inputs[0][0];
    if (channel) this.port.postMessage(channel.slice());
    return true;
  }
}

registerProcessor("wopr-recorder", WoprRecorder);
