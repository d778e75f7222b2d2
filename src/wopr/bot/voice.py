"""Sound files of the data folder, and what of an answer is worth reading aloud."""

import base64
import binascii
import contextlib
import re
from pathlib import Path

from wopr.bot.contract import AUDIO_BYTES_MAX

SPOKEN_CHARS_MAX = 4_000  # OpenAI's limit for one request is 4,096
FOLDER = "audio"

_FENCE = re.compile(r"```.*?(```|\Z)", re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_MARKS = re.compile(r"(^\s{0,3}(#{1,6}|>|[-*+])\s+)|[*_`~]{1,3}(?=\S)|(?<=\S)[*_`~]{1,3}", re.MULTILINE)


class NotSound(ValueError):
    """The bytes aren't a WAV file that we accept; the message says why."""


def decode(text: str) -> bytes:
    """A WAV file from base64. Raises `NotSound`."""
    try:
        audio = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotSound("audio_base64 isn't valid base64") from error
    check(audio)
    return audio


def check(audio: bytes) -> None:
    """Raises `NotSound` for anything but a WAV file of an acceptable size."""
    if len(audio) > AUDIO_BYTES_MAX:
        raise NotSound(f"the recording is larger than {AUDIO_BYTES_MAX // 1024 // 1024} MB")
    if audio[:4] != b"RIFF" or audio[8:12] != b"WAVE":
        raise NotSound("the recording isn't a WAV file")


def speakable(answer: str) -> str:
    """The answer as one would read it out: no code blocks, link addresses or markdown marks; cut at a sentence."""
    text = _FENCE.sub(" ", answer)
    text = _MARKS.sub("", _LINK.sub(r"\1", text))
    text = re.sub(r"[ \t]+", " ", re.sub(r"\n{2,}", "\n", text)).strip()
    if len(text) <= SPOKEN_CHARS_MAX:
        return text
    cut = text[:SPOKEN_CHARS_MAX]
    end = max(cut.rfind(mark) for mark in (". ", "! ", "? ", "\n"))
    return cut[: end + 1].strip() if end > SPOKEN_CHARS_MAX // 2 else cut


def path_of(data: Path, turn_id: str) -> Path:
    """Where an answer's sound is kept. Turn ids are harmless as file names (see `contract`)."""
    return data / FOLDER / f"{turn_id}.wav"


def keep(data: Path, turn_id: str, audio: bytes) -> Path:
    """Writes the file whole or not at all. Raises OSError."""
    path = path_of(data, turn_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(audio)
    part.replace(path)
    return path


def remove(data: Path, turn_id: str) -> None:
    """Deletes the file if there is one."""
    with contextlib.suppress(OSError):
        path_of(data, turn_id).unlink(missing_ok=True)
