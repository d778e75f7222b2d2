"""What a service is asked to see whether it works, and whether what it answers can be right. Pure.

One token, one embedding of the size that it always had, half a second of speech, its transcript: enough to use all of
an engine, and cheap. A service that answers with a refusal of its own (4xx) works; it only can't be checked this way.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from wopr.inference.nodes import Backend
from wopr.inference.sights import Memory
from wopr.inference.wire import Ask

SPOKEN_FILE = "spoken.wav"  # somebody says "Ready?"
WORD = "Ready?"
SPEECH_SECONDS_MIN, SPEECH_SECONDS_MAX = 0.1, 20.0
COMPRESSED_BYTES_MIN = 500
# How files begin that are sound but no WAV, for servers that send what they like best.
COMPRESSED = (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"OggS", b"fLaC")
BOUNDARY = "wopr-check-5a1c"


class Wrong(ValueError):
    """An answer that can't be right; the message says why."""


def request_of(backend: Backend, memory: Memory) -> Ask:
    """The cheap request for a service."""
    model = memory.models[0] if memory.models else backend.service
    if backend.service == "whisper":
        form = f"multipart/form-data; boundary={BOUNDARY}"
        return Ask(f"{backend.base_url}/v1/audio/transcriptions", _form(model), form, headers_of(backend))
    path, body = _bodies(memory, model)[backend.service]
    return Ask(f"{backend.base_url}{path}", json.dumps(body).encode(), headers=headers_of(backend))


def headers_of(backend: Backend) -> Mapping[str, str]:
    """What a request to the backend carries."""
    return {"authorization": f"Bearer {backend.api_key}"} if backend.api_key else {}


def size_of(service: str, body: bytes, memory: Memory) -> int | None:
    """Wrong when the answer is nonsense. Of an embedding its size."""
    return _VERIFY[service](body, memory)


def _bodies(memory: Memory, model: str) -> dict[str, tuple[str, dict[str, Any]]]:  # what JSON takes
    chat = {"model": model, "messages": [{"role": "user", "content": "1"}], "max_tokens": 1, "temperature": 0}
    voice = {"voice": memory.voices[0]} if memory.voices else {}
    speech = {"model": model, "input": WORD, "response_format": "wav", **voice}
    return {
        "llama": ("/v1/chat/completions", chat),
        "qwen": ("/v1/embeddings", {"model": model, "input": "1"}),
        "chatterbox": ("/v1/audio/speech", speech),
    }


@cache
def _spoken() -> bytes:
    return (Path(__file__).parent / SPOKEN_FILE).read_bytes()


@cache
def _form(model: str) -> bytes:
    field = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="model"\r\n\r\n{model}\r\n'
    file = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="{SPOKEN_FILE}"\r\n'
    head = f"{field}{file}content-type: audio/wav\r\n\r\n"
    return head.encode() + _spoken() + f"\r\n--{BOUNDARY}--\r\n".encode()


def _text(body: bytes, _memory: Memory) -> None:
    choices = _object(body).get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(message, dict):
        raise Wrong("the completion has no message")
    # One token may be the end itself, or the first of a thought, so its text may be empty; the message is there.
    if not isinstance(message.get("content") or "", str):
        raise Wrong("the completion's content is no text")


def _embedding(body: bytes, memory: Memory) -> int:
    data = _object(body).get("data")
    first = data[0] if isinstance(data, list) and data else None
    vector = first.get("embedding") if isinstance(first, dict) else None
    if not isinstance(vector, list) or not vector:
        raise Wrong("there is no embedding in the answer")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in vector) or not any(vector):
        raise Wrong("the embedding holds what is no number, or nothing but zeros")
    if memory.size is not None and len(vector) != memory.size:
        raise Wrong(f"the embedding has {len(vector)} numbers; it always had {memory.size}")
    return len(vector)


def _speech(body: bytes, _memory: Memory) -> None:
    if body.startswith(COMPRESSED):
        if len(body) < COMPRESSED_BYTES_MIN:
            raise Wrong(f"the speech is {len(body)} bytes short")
        return
    seconds, sound = _wav(body)
    if not SPEECH_SECONDS_MIN <= seconds <= SPEECH_SECONDS_MAX:
        raise Wrong(f"one word lasts {seconds:.2f} s")
    if not sound.strip(b"\0"):
        raise Wrong("the speech is silent")


def _transcript(body: bytes, _memory: Memory) -> None:
    text = _object(body).get("text")
    if not isinstance(text, str) or not text.strip():
        raise Wrong("the transcript of a spoken word is empty")


def _wav(body: bytes) -> tuple[float, bytes]:
    """Seconds and samples of a WAV file, whatever sizes a program that streams wrote into it."""
    if len(body) < 44 or body[:4] != b"RIFF" or body[8:12] != b"WAVE":
        raise Wrong("the speech is no sound file")
    a_second, at = 0, 12
    while at + 8 <= len(body):
        name, size = body[at : at + 4], struct.unpack_from("<I", body, at + 4)[0]
        if name == b"fmt ":
            a_second = struct.unpack_from("<I", body, at + 16)[0]
        elif name == b"data":
            sound = body[at + 8 : at + 8 + size] if size else body[at + 8 :]
            return (len(sound) / a_second if a_second else 0.0), sound
        at += 8 + size + (size & 1)
    raise Wrong("the speech has no sound in it")


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Wrong("the answer is no JSON") from error
    if not isinstance(document, dict):
        raise Wrong("the answer is no object")
    return document


_VERIFY: Mapping[str, Callable[[bytes, Memory], int | None]] = {
    "llama": _text,
    "qwen": _embedding,
    "chatterbox": _speech,
    "whisper": _transcript,
}
