"""The transcription service: OpenAI's `/v1/audio/transcriptions`.

By faster-whisper where a model of it is installed, else by pocketsphinx, which carries its English model with it.
"""

import asyncio
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aiohttp import BodyPartReader, web

from wopr.core.errors import NotConfigured
from wopr.inference.engines.options import EngineOptions
from wopr.inference.engines.server import BODY_SECONDS_MAX, EngineError, Gate
from wopr.inference.engines.sound import NotDecodable, Sound, read_wav, resample, to_pcm16
from wopr.inference.engines.transcripts import FORMATS, Segment, Transcript, Word, render, segments_of
from wopr.inference.weights import whisper_model

# OpenAI's own limit on an upload.
BODY_BYTES_MAX = 25 * 1024 * 1024
FIELD_BYTES_MAX = 16 * 1024
FIELDS_MAX = 32
SECONDS_MAX = 1800.0
RATE = 16_000
FRAMES_A_SECOND = 100
# pocketsphinx hears best when it has a whole utterance before it, and holds the interpreter's lock until it is through
# with it, for a seventh of the time in which it was spoken. Short ones let health checks and cancellations through.
UTTERANCE_SECONDS_MAX = 8.0
YIELD_SECONDS = 0.001
QUIET_WINDOW_SECONDS = 0.2


@dataclass
class Form:
    """The fields of one request, checked."""

    audio: bytes
    form: str = "json"
    language: str = ""
    prompt: str = ""
    temperature: float = 0.0
    with_words: bool = False


class Cancelled(Exception):
    """The client left while a thread worked for it."""


@dataclass(frozen=True)
class Job:
    """One recording at 16,000 samples a second; the flag tells the thread to give up."""

    sound: Sound
    form: Form
    cancelled: threading.Event = field(default_factory=threading.Event)


class Recognizer(Protocol):
    """What turns sound into words. One job at a time."""

    name: str

    def transcribe(self, job: Job) -> Transcript:
        """Blocks; raises Cancelled soon after the job's flag was set."""
        ...


class TranscriptionEngine:
    """The `whisper` service of a node."""

    service = "whisper"
    # One recognizer, one job: a second would only make both slower, and cost its memory.
    slots = 1
    body_bytes_max = BODY_BYTES_MAX

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._recognizer: Recognizer | None = None

    def load(self) -> str:
        """Open faster-whisper's model if there is one, else pocketsphinx."""
        self._recognizer = open_recognizer(self._options.models_path, self._options.model)
        return self._recognizer.name

    def models(self) -> Sequence[str]:
        return (self._recognizer.name,) if self._recognizer else ()

    def routes(self, gate: Gate) -> Sequence[web.RouteDef]:
        async def transcriptions(request: web.Request) -> web.Response:
            form = await read_form(request)
            sound = await asyncio.to_thread(decode, form.audio)
            async with gate.slot():
                transcript = await self._work(Job(sound, form))
            text, kind = render(transcript, form.form, with_words=form.with_words)
            return web.Response(text=text, content_type=kind)

        return [web.post("/v1/audio/transcriptions", transcriptions)]

    async def _work(self, job: Job) -> Transcript:
        if self._recognizer is None:
            raise RuntimeError("asked before it was loaded")
        # Shielded: the slot must stay taken until the thread has really left the recognizer.
        work = asyncio.ensure_future(asyncio.to_thread(self._recognizer.transcribe, job))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            job.cancelled.set()
            await asyncio.wait([work])
            if not work.cancelled():
                work.exception()
            raise


def open_recognizer(models_path: Path, chosen: Path | None = None) -> Recognizer:
    """The best recognizer of this machine; NotConfigured when there is none."""
    from importlib.util import find_spec

    model = whisper_model(models_path, chosen)
    if model is not None and find_spec("faster_whisper") is not None:
        return FasterWhisper(model)
    if find_spec("pocketsphinx") is None:
        raise NotConfigured(
            "There is nothing on this machine that transcribes: the package pocketsphinx is missing.",
            remedy="Install WOPR with its local extra: `uv sync --extra local`.",
        )
    return PocketSphinx()


def decode(audio: bytes) -> Sound:
    """The recording at the rate of the recognizers; EngineError 400 says why when it can't be read."""
    try:
        sound = read_wav(audio)
    except NotDecodable as error:
        message = f"The file can't be decoded: {error}. Send WAV (PCM or floating point, any rate)."
        raise EngineError(400, message, param="file", code="unsupported_format") from error
    if sound.seconds > SECONDS_MAX:
        message = f"The recording lasts {sound.seconds:.0f} s; {SECONDS_MAX:.0f} s are possible. Send it in parts."
        raise EngineError(400, message, param="file", code="audio_too_long")
    if not len(sound.samples):
        raise EngineError(400, "The recording is empty.", param="file")
    return resample(sound, RATE)


async def read_form(request: web.Request) -> Form:
    """The multipart fields; EngineError 400, 408 or 413 when they are wrong, slow or too large."""
    if not request.content_type.startswith("multipart/"):
        raise EngineError(400, "Send multipart/form-data with a field named file.", param="file")
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            fields, audio = await _parts(request)
    except TimeoutError as error:
        raise EngineError(408, "The upload took too long to arrive.") from error
    except ValueError as error:
        raise EngineError(400, f"The multipart body can't be read: {error}") from error
    if audio is None:
        raise EngineError(400, "There is no field named file.", param="file")
    return _checked(audio, fields)


async def _parts(request: web.Request) -> tuple[dict[str, list[str]], bytes | None]:
    fields: dict[str, list[str]] = {}
    audio: bytes | None = None
    count = 0
    async for part in await request.multipart():
        count += 1
        if not isinstance(part, BodyPartReader) or count > FIELDS_MAX:
            raise EngineError(400, f"Send at most {FIELDS_MAX} plain fields.")
        if part.name == "file":
            audio = await _read(part, BODY_BYTES_MAX, "The file is larger than 25 MB.")
        elif part.name:
            value = await _read(part, FIELD_BYTES_MAX, f"The field {part.name} is too long.")
            fields.setdefault(part.name.removesuffix("[]"), []).append(value.decode("utf-8", "replace"))
    return fields, audio


async def _read(part: BodyPartReader, limit: int, refusal: str) -> bytes:
    """Read a part without ever holding more than the limit."""
    data = bytearray()
    while chunk := await part.read_chunk(65_536):
        data.extend(chunk)
        if len(data) > limit:
            raise EngineError(413, refusal)
    return bytes(data)


def _checked(audio: bytes, fields: dict[str, list[str]]) -> Form:
    last = {name: values[-1] for name, values in fields.items()}
    form = last.get("response_format") or "json"
    if form not in FORMATS:
        raise EngineError(400, f"response_format must be one of {', '.join(FORMATS)}.", param="response_format")
    if last.get("stream", "false").lower() == "true":
        raise EngineError(
            400, "stream is not possible for transcriptions here.", param="stream", code="unsupported_value"
        )
    try:
        temperature = float(last.get("temperature") or 0.0)
    except ValueError as error:
        raise EngineError(400, "temperature must be a number.", param="temperature") from error
    words = "word" in fields.get("timestamp_granularities", ())
    return Form(audio, form, last.get("language", ""), last.get("prompt", ""), temperature, words)


class PocketSphinx:
    """CMU's recognizer with the English model of its package."""

    name = "pocketsphinx"

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder: Any = Decoder(loglevel="FATAL", samprate=float(RATE))

    def transcribe(self, job: Job) -> Transcript:
        """English only; EngineError 400 for another language."""
        if job.form.language and not job.form.language.lower().startswith("en"):
            message = f"pocketsphinx understands English only, not {job.form.language!r}."
            raise EngineError(400, message, param="language", code="unsupported_language")
        words = [word for start, part in _utterances(job.sound) for word in self._words(part, start, job.cancelled)]
        return Transcript(segments_of(words), words, "english", job.sound.seconds)

    def _words(self, sound: Sound, offset: float, cancelled: threading.Event) -> Iterator[Word]:
        # Waiting, however briefly, is what hands the interpreter's lock to the event loop.
        if cancelled.wait(YIELD_SECONDS):
            raise Cancelled
        # What the last recording taught the decoder about noise and level must not colour this one.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        try:
            self._decoder.process_raw(to_pcm16(sound), False, True)
        finally:
            self._decoder.end_utt()
        for piece in self._decoder.seg() or ():
            # A second pronunciation is written `live(2)`; silence and noises are in brackets.
            text = re.sub(r"\(\d+\)$", "", piece.word)
            if not text.startswith(("<", "[", "+")):
                start, end = piece.start_frame / FRAMES_A_SECOND, (piece.end_frame + 1) / FRAMES_A_SECOND
                yield Word(text, offset + start, offset + end)


class FasterWhisper:
    """Whisper by CTranslate2, from a folder in the models folder."""

    def __init__(self, model: Path) -> None:
        from faster_whisper import WhisperModel

        self.name = model.name
        self._model: Any = WhisperModel(str(model), device="auto", compute_type="auto", local_files_only=True)

    def transcribe(self, job: Job) -> Transcript:
        """In whatever language the model knows; found out when the request names none."""
        pieces, info = self._model.transcribe(
            job.sound.samples,
            language=job.form.language or None,
            initial_prompt=job.form.prompt or None,
            temperature=job.form.temperature,
            word_timestamps=job.form.with_words,
        )
        segments: list[Segment] = []
        words: list[Word] = []
        # The library works while its segments are asked for, so between two of them a job can end.
        for piece in pieces:
            if job.cancelled.is_set():
                raise Cancelled
            segments.append(Segment(piece.text.strip(), piece.start, piece.end))
            words.extend(Word(w.word.strip(), w.start, w.end) for w in piece.words or ())
        return Transcript(segments, words, str(info.language), job.sound.seconds)


def _utterances(sound: Sound) -> Iterator[tuple[float, Sound]]:
    """The recording in parts that the recognizer can hold, cut where it is quietest, each with its start in seconds."""
    import numpy as np

    longest, window = int(UTTERANCE_SECONDS_MAX * sound.rate), int(QUIET_WINDOW_SECONDS * sound.rate)
    start, total = 0, len(sound.samples)
    while total - start > longest:
        tail = np.abs(sound.samples[start + longest // 2 : start + longest])
        windows = tail[: len(tail) // window * window].reshape(-1, window).mean(axis=1)
        cut = start + longest // 2 + int(windows.argmin()) * window + window // 2
        yield start / sound.rate, Sound(sound.samples[start:cut], sound.rate)
        start = cut
    yield start / sound.rate, Sound(sound.samples[start:], sound.rate)
