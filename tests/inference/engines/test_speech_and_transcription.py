"""Speech and its transcript: what one service says, the other understands."""

import asyncio
import shutil
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI
from tests.inference.engines.conftest import Serve, free_within_a_second

from wopr.core.errors import NotConfigured
from wopr.inference.engines.options import EngineOptions
from wopr.inference.engines.sound import read_wav, resample, to_wav
from wopr.inference.engines.speech import SpeechEngine, Voice, command, parse_order
from wopr.inference.engines.transcription import TranscriptionEngine
from wopr.inference.engines.transcripts import Transcript, Word, render, segments_of

speaks = pytest.mark.skipif(not shutil.which("flite"), reason="flite is not installed")
SENTENCE = "Please remember that my favorite color is blue."


async def say(client: httpx.AsyncClient, **body: object) -> httpx.Response:
    return await client.post("/v1/audio/speech", json={"input": SENTENCE, "voice": "rms", **body})


@speaks
async def test_a_spoken_sentence_is_understood(serve: Serve, options: EngineOptions) -> None:
    async with serve(SpeechEngine(options)) as client:
        spoken = (await say(client)).content
    louder_rate = to_wav(resample(read_wav(spoken), 44_100))
    async with serve(TranscriptionEngine(options)) as client:
        for audio in (spoken, louder_rate):
            response = await client.post("/v1/audio/transcriptions", files={"file": ("a.wav", audio)})
            assert "favorite color is blue" in response.json()["text"]


@speaks
async def test_a_transcript_does_not_depend_on_the_recording_before(serve: Serve, options: EngineOptions) -> None:
    async with serve(SpeechEngine(options)) as client:
        first, other = (await say(client)).content, (await say(client, voice="kal", input="Zero five nine.")).content
    heard = []
    async with serve(TranscriptionEngine(options)) as client:
        for audio in (first, other, first):
            form = {"response_format": "text"}
            heard.append((await client.post("/v1/audio/transcriptions", files={"file": audio}, data=form)).text)
    assert heard[0] == heard[2]


@speaks
async def test_formats_speed_and_voices(serve: Serve, options: EngineOptions) -> None:
    async with serve(SpeechEngine(options)) as client:
        normal, fast = (await say(client)).content, (await say(client, speed=2)).content
        pcm = await say(client, response_format="pcm")
        nova = await say(client, voice="nova")
        voices = [voice["id"] for voice in (await client.get("/v1/audio/voices")).json()["voices"]]
    assert read_wav(fast).seconds == pytest.approx(read_wav(normal).seconds / 2, rel=0.15)
    assert len(pcm.content) == pytest.approx(read_wav(normal).seconds * 48_000, rel=0.01)
    assert nova.status_code == 200
    assert {"rms", "slt", "kal"} <= set(voices)
    assert "awb_time" not in voices  # a talking clock, which has no other words


@speaks
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": "x" * 5000}, "input"),
        ({"response_format": "mp3"}, "response_format"),
        ({"speed": 9}, "speed"),
        ({"speed": True}, "speed"),
        ({"voice": "nobody"}, "voice"),
    ],
)
async def test_a_wrong_order_names_the_field(
    serve: Serve, options: EngineOptions, body: dict[str, object], param: str
) -> None:
    async with serve(SpeechEngine(options)) as client:
        response = await say(client, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_without_a_program_it_says_what_to_install(options: EngineOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NotConfigured) as raised:
        SpeechEngine(options).load()
    assert "apt-get install flite" in raised.value.remedy


def test_the_text_is_never_an_argument() -> None:
    order = parse_order({"input": "a secret", "speed": 2}, ["rms"])
    for program in ("flite", "espeak-ng"):
        assert not any("secret" in word for word in command(Voice(program, "rms"), order.speed, Path("t"), Path("s")))


@speaks
async def test_every_form_of_a_transcript(serve: Serve, options: EngineOptions) -> None:
    async with serve(SpeechEngine(options)) as client:
        audio = (await say(client)).content
    async with (
        serve(TranscriptionEngine(options)) as client,
        AsyncOpenAI(base_url=f"{str(client.base_url).rstrip('/')}/v1", api_key="none", max_retries=0) as openai,
    ):
        srt = await openai.audio.transcriptions.create(model="whisper-1", file=audio, response_format="srt")
        vtt = await openai.audio.transcriptions.create(model="whisper-1", file=audio, response_format="vtt")
        full = await openai.audio.transcriptions.create(
            model="whisper-1", file=audio, response_format="verbose_json", timestamp_granularities=["word"]
        )
    assert srt.startswith("1\n00:00:0")
    assert vtt.startswith("WEBVTT\n\n1\n")
    assert full.words
    assert full.words[-1].word == "blue"
    assert full.duration == pytest.approx(read_wav(audio).seconds, abs=0.01)


async def test_what_cannot_be_transcribed_is_refused(serve: Serve, options: EngineOptions) -> None:
    silence = to_wav(resample(read_wav(_silence(0.2)), 16_000))
    async with serve(TranscriptionEngine(options)) as client:
        url = "/v1/audio/transcriptions"
        mp3 = await client.post(url, files={"file": b"ID3............"})
        no_file = await client.post(url, data={"model": "whisper-1"}, files={"other": b"x"})
        no_form = await client.post(url, json={})
        german = await client.post(url, files={"file": silence}, data={"language": "de"})
        odd = await client.post(url, files={"file": silence}, data={"response_format": "docx"})
        nothing = await client.post(url, files={"file": silence})
    assert "MP3" in mp3.json()["error"]["message"]
    assert [r.status_code for r in (mp3, no_file, no_form, german, odd)] == [400] * 5
    assert nothing.json()["text"] == ""


@speaks
async def test_a_client_that_leaves_stops_the_transcription(serve: Serve, options: EngineOptions) -> None:
    long = to_wav(resample(read_wav(_silence(120)), 16_000))
    async with serve(TranscriptionEngine(options)) as client:
        request = asyncio.ensure_future(client.post("/v1/audio/transcriptions", files={"file": long}))
        for _ in range(500):
            if (await client.get("/slots")).json()[0]["is_processing"]:
                break
            await asyncio.sleep(0.01)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await free_within_a_second(client)


def test_words_are_parted_at_pauses_and_stamped() -> None:
    words = [Word("hello", 0.1, 0.5), Word("there", 0.6, 1.0), Word("again", 3661.5, 3662.25)]
    segments = segments_of(words)
    assert [segment.text for segment in segments] == ["hello there", "again"]
    srt, _ = render(Transcript(segments, words, "english", 3663.0), "srt", with_words=False)
    assert "01:01:01,500 --> 01:01:02,250" in srt


def _silence(seconds: float) -> bytes:
    import numpy as np

    from wopr.inference.engines.sound import Sound

    noise = np.random.default_rng(0).normal(0, 0.001, int(8_000 * seconds)).astype(np.float32)
    return to_wav(Sound(noise, 8_000))
