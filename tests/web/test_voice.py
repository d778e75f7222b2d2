"""The browser's side of speaking: the sound that leaves it is what was said, at the rate that recognizers want."""

from __future__ import annotations

import base64
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.browsing import CHROMIUM, calm
from tests.live import missing, spoken

import wopr.web

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCRIPTS = Path(wopr.web.__file__).parent / "static" / "js"
NEEDED = os.environ.get("WOPR_REQUIRE", "") in ("all", "1") or "browser" in os.environ.get("WOPR_REQUIRE", "")
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not CHROMIUM and not NEEDED, reason="needs chromium")]
SENTENCE = "shall we play a game"

LOUDNESS = """async ([from, to, hertz]) => {
  const { resample } = await import("/resample.js");
  const heard = Float32Array.from({ length: from }, (_, at) => Math.sin((2 * Math.PI * hertz * at) / from));
  const out = resample(heard, from, to);
  const middle = out.subarray(1000, out.length - 1000);
  let worst = 0;
  middle.forEach((value, at) => {
    worst = Math.max(worst, Math.abs(value - Math.sin((2 * Math.PI * hertz * (at + 1000)) / to)));
  });
  const power = middle.reduce((sum, value) => sum + value * value, 0) / middle.length;
  return { length: out.length, loudness: Math.sqrt(2 * power), worst };
}"""

RECORD = """async () => {
  const { Recorder } = await import("/voice.js");
  const recorder = new Recorder();
  await recorder.start();
  await new Promise((done) => setTimeout(done, 2500));
  const bytes = new Uint8Array(await (await recorder.stop()).arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}"""


class Quiet(SimpleHTTPRequestHandler):
    """Static files, without a line on stderr for each."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def scripts() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SCRIPTS)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def page_of(*flags: str) -> Iterator[Page]:
    """A page that may import the scripts."""
    from playwright.sync_api import sync_playwright

    with scripts() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *flags], env=calm())
        page = browser.new_page()
        page.goto(url)
        yield page
        browser.close()


def test_sound_changes_its_rate_and_nothing_else() -> None:
    with page_of() as page:
        for rate in (48_000, 44_100, 96_000, 16_000, 8_000):
            for hertz in (0.0, 200.0, 1_000.0, 3_000.0):
                kept = page.evaluate(LOUDNESS, [rate, 16_000, hertz])
                assert kept["length"] == 16_000
                assert kept["worst"] < 0.02, (rate, hertz, kept)
        for rate in (48_000, 44_100, 96_000):
            for hertz in (9_000.0, 12_000.0, 15_500.0, 20_000.0):
                assert page.evaluate(LOUDNESS, [rate, 16_000, hertz])["loudness"] < 0.01, (rate, hertz)


def test_what_is_said_into_the_microphone_is_understood(tmp_path: Path) -> None:
    from wopr.inference.engines.transcription import Form, Job, PocketSphinx, decode

    recording = spoken(SENTENCE)
    if recording is None:
        missing("flite")
    assert recording is not None
    heard = tmp_path / "heard.wav"
    heard.write_bytes(recording)
    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with page_of(*flags, f"--use-file-for-fake-audio-capture={heard}%noloop") as page:
        sent = base64.b64decode(page.evaluate(RECORD))
    said = PocketSphinx().transcribe(Job(decode(sent), Form(sent)))
    # An article is a breath: "a" or "the" is the recogniser's guess, and the page's sound differs from run to run.
    assert [word.text for word in said.words if word.text not in ("a", "the")] == ["shall", "we", "play", "game"]
