"""The speech service: OpenAI's `/v1/audio/speech` by piper where a voice of it is installed, by flite, or by espeak-ng.

The two small programs run as a child process for each request, so that a client that leaves stops them at once.
"""

import asyncio
import contextlib
import io
import re
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from wopr.core.errors import NotConfigured
from wopr.inference.engines.options import EngineOptions
from wopr.inference.engines.server import EngineError, Gate, read_json
from wopr.inference.engines.sound import read_wav, resample, to_pcm16, to_wav
from wopr.inference.weights import piper_voices

CHARACTERS_MAX = 4096
BODY_BYTES_MAX = 64 * 1024
SPEAK_SECONDS_MAX = 60.0
PROBE_SECONDS_MAX = 5.0
COMPLAINT_BYTES_MAX = 500
SPEED_MIN, SPEED_MAX = 0.25, 4.0
# What OpenAI's `pcm` means: 24,000 samples a second, 16 bits, one channel, no header.
PCM_RATE = 24_000
ESPEAK_WORDS_A_MINUTE = 165
ESPEAK_LANGUAGES = ("en-us", "en-gb", "de", "es", "fr", "it", "nl", "pt")
# OpenAI's voices, for programs that name one, by what they are nearest to.
OPENAI_VOICES: Mapping[str, str] = {
    "alloy": "slt",
    "ash": "rms",
    "ballad": "awb",
    "coral": "slt",
    "echo": "rms",
    "fable": "awb",
    "onyx": "rms",
    "nova": "slt",
    "sage": "slt",
    "shimmer": "slt",
    "verse": "rms",
}
CLOCK_SUFFIX = "_time"
FLITE_PREFERRED = ("rms", "slt")
INSTALL = "Install one: `apt-get install flite` (Debian, Ubuntu) or `brew install espeak-ng` (macOS)."

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Order:
    """One request, checked."""

    text: str
    voice: str
    form: str
    speed: float


@dataclass(frozen=True)
class Voice:
    """One voice: the program that has it, and its name there. Piper's `model` is loaded at the first use."""

    program: str
    name: str
    model: Path | None = None


class SpeechEngine:
    """The `chatterbox` service of a node."""

    service = "chatterbox"
    body_bytes_max = BODY_BYTES_MAX

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self.slots = options.parallel
        self._voices: dict[str, Voice] = {}
        self._loaded: dict[str, Any] = {}

    def load(self) -> str:
        """See which voices this machine has. NotConfigured, with what to install, when there is none."""
        self._voices = find_voices(self._options.models_path)
        if not self._voices:
            raise NotConfigured(
                "There is nothing on this machine that speaks: neither flite nor espeak-ng.", remedy=INSTALL
            )
        return self.models()[0]

    def models(self) -> Sequence[str]:
        return tuple(dict.fromkeys(voice.program for voice in self._voices.values()))

    def routes(self, gate: Gate) -> Sequence[web.RouteDef]:
        async def speech(request: web.Request) -> web.Response:
            order = parse_order(await read_json(request), tuple(self._voices))
            async with gate.slot():
                return await self._answer(order)

        async def voices(_request: web.Request) -> web.Response:
            listed = [{"id": name, "model": voice.program} for name, voice in self._voices.items()]
            return web.json_response({"voices": listed})

        return [web.post("/v1/audio/speech", speech), web.get("/v1/audio/voices", voices)]

    async def _answer(self, order: Order) -> web.Response:
        voice = self._voices[order.voice]
        spoken = await (self._by_piper(voice, order) if voice.program == "piper" else speak(voice, order))
        sound = await asyncio.to_thread(read_wav, spoken)
        if order.form == "pcm":
            pcm = to_pcm16(await asyncio.to_thread(resample, sound, PCM_RATE))
            return web.Response(body=pcm, content_type="audio/pcm")
        return web.Response(body=to_wav(sound), content_type="audio/wav")

    async def _by_piper(self, voice: Voice, order: Order) -> bytes:
        def work() -> bytes:
            if voice.name not in self._loaded:
                self._loaded[voice.name] = _load_piper(voice)
            return _piper_wav(self._loaded[voice.name], order)

        return await asyncio.to_thread(work)


def find_voices(models_path: Path) -> dict[str, Voice]:
    """Every voice of this machine by name, the default first: piper's, then flite's, then espeak-ng's."""
    voices = {name: Voice("piper", name, path) for name, path in piper_voices(models_path).items() if _has_piper()}
    if shutil.which("flite"):
        names = _flite_voices()
        preferred = [name for name in FLITE_PREFERRED if name in names]
        voices |= {name: Voice("flite", name) for name in dict.fromkeys([*preferred, *names])}
    if shutil.which("espeak-ng"):
        voices |= {f"espeak-{language}": Voice("espeak-ng", language) for language in ESPEAK_LANGUAGES}
    return voices


def parse_order(body: Mapping[str, object], voices: Sequence[str]) -> Order:
    """The request as data; EngineError 400 names the field that is wrong. WAV when no format is asked for."""
    text = body.get("input")
    if not isinstance(text, str) or not text.strip():
        raise EngineError(400, "input must be the text to speak.", param="input")
    if len(text) > CHARACTERS_MAX:
        message = f"input has {len(text)} characters; {CHARACTERS_MAX} are possible."
        raise EngineError(400, message, param="input", code="string_above_max_length")
    form = body.get("response_format") or "wav"
    if form not in ("wav", "pcm"):
        message = f"response_format {form!r} can't be made here: ask for wav or pcm."
        raise EngineError(400, message, param="response_format", code="unsupported_format")
    if body.get("stream_format") not in (None, "audio"):
        raise EngineError(400, "stream_format can only be audio here.", param="stream_format", code="unsupported_value")
    speed = body.get("speed", 1.0)
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not SPEED_MIN <= speed <= SPEED_MAX:
        raise EngineError(400, f"speed must be a number from {SPEED_MIN} to {SPEED_MAX}.", param="speed")
    # Other control characters than line ends would be read aloud as their names, or end the text early.
    clean = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", text)
    return Order(clean, _voice_name(body.get("voice"), voices), str(form), float(speed))


async def speak(voice: Voice, order: Order) -> bytes:
    """The WAV that the voice's program writes. Killed when it takes too long or the caller is cancelled."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="wopr-speech-"))
    text_file, sound_file = folder / "text", folder / "sound.wav"
    try:
        await asyncio.to_thread(text_file.write_text, order.text, encoding="utf-8")
        await _run(voice.program, command(voice, order.speed, text_file, sound_file))
        return await asyncio.to_thread(sound_file.read_bytes)
    except FileNotFoundError as error:
        raise EngineError(500, f"{voice.program} wrote no sound for this text.") from error
    finally:
        # Not in a thread: after a cancellation nothing more may be waited for, and these are two files.
        shutil.rmtree(folder, ignore_errors=True)


async def _run(program: str, arguments: Sequence[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(SPEAK_SECONDS_MAX):
            _, complaint = await process.communicate()
    except TimeoutError as error:
        raise EngineError(500, f"{program} took longer than {SPEAK_SECONDS_MAX:.0f} s.") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        said = complaint[-COMPLAINT_BYTES_MAX:].decode("utf-8", "replace")
        log.error("speech.failed", program=program, status=process.returncode, stderr=said)
        raise EngineError(500, f"{program} could not speak this text.")


def command(voice: Voice, speed: float, text_file: Path, sound_file: Path) -> list[str]:
    """How the program is called. The text goes through a file: every user of the machine can see arguments."""
    if voice.program == "flite":
        stretch = f"duration_stretch={1 / speed:.3f}"
        return ["flite", "-voice", voice.name, "--setf", stretch, "-f", str(text_file), "-o", str(sound_file)]
    pace = str(round(ESPEAK_WORDS_A_MINUTE * speed))
    return ["espeak-ng", "-v", voice.name, "-s", pace, "-b", "1", "-f", str(text_file), "-w", str(sound_file)]


def _voice_name(asked: object, voices: Sequence[str]) -> str:
    if asked is None or asked in ("", "default"):
        return voices[0]
    if isinstance(asked, str):
        if asked in voices:
            return asked
        if asked in OPENAI_VOICES:
            return OPENAI_VOICES[asked] if OPENAI_VOICES[asked] in voices else voices[0]
    raise EngineError(
        400, f"There is no voice {asked!r}. There are: {', '.join(voices)}.", param="voice", code="unknown_voice"
    )


def _flite_voices() -> list[str]:
    """The names after the colon of `flite -lv`, without those that know the words of a talking clock only."""
    try:
        answer = subprocess.run(
            ["flite", "-lv"], capture_output=True, text=True, timeout=PROBE_SECONDS_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [name for name in answer.stdout.rpartition(":")[2].split() if not name.endswith(CLOCK_SUFFIX)]


def _has_piper() -> bool:
    from importlib.util import find_spec

    return find_spec("piper") is not None


def _load_piper(voice: Voice) -> Any:  # piper has no types
    from piper import PiperVoice

    return PiperVoice.load(str(voice.model))


def _piper_wav(voice: Any, order: Order) -> bytes:
    """Piper from 1.3 on takes its settings as an object, before as arguments."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        if hasattr(voice, "synthesize_wav"):
            from piper import SynthesisConfig

            voice.synthesize_wav(order.text, file, syn_config=SynthesisConfig(length_scale=1 / order.speed))
        else:
            voice.synthesize(order.text, file, length_scale=1 / order.speed)
    return buffer.getvalue()
