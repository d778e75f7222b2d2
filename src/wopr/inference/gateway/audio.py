"""What must be known of an upload of speech before it is sent on: the fields of its form, and how long it lasts."""

import re
import struct
from dataclasses import dataclass

from wopr.inference.gateway.errors import BadParameter

PARTS_MAX = 64
# Compressed speech: 32 kbit/s is about the least that is used, so a file can't last longer than this says.
BYTES_PER_SECOND_LEAST = 4_000
_BOUNDARY = re.compile(rb'boundary=(?:"([^"]{1,70})"|([^\s;]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'[;\s]name="([^"]*)"', re.IGNORECASE)
_FILENAME = re.compile(rb"filename\*?=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """One field: where its value stands in the body."""

    name: str
    is_file: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart body and its parts."""

    raw: bytes
    parts: tuple[Part, ...]

    def text(self, name: str) -> str | None:
        """The value of a field that is no file."""
        for part in self.parts:
            if part.name == name and not part.is_file:
                return self.raw[part.start : part.end].decode("utf-8", "replace")
        return None

    def file(self, name: str) -> bytes | None:
        """The content of a file."""
        for part in self.parts:
            if part.name == name and part.is_file:
                return self.raw[part.start : part.end]
        return None

    def with_text(self, name: str, value: str) -> bytes:
        """The body with another value in one field; every other byte as it was."""
        for part in self.parts:
            if part.name == name and not part.is_file:
                return self.raw[: part.start] + value.encode() + self.raw[part.end :]
        return self.raw


def parse_form(content_type: bytes, raw: bytes) -> Form:
    """The fields of a multipart/form-data body. BadParameter (400) when it is none."""
    match = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith(b"multipart/form-data") or match is None:
        raise BadParameter("The body must be multipart/form-data with a boundary.", None, "invalid_form")
    mark = b"--" + (match.group(1) or match.group(2))
    parts: list[Part] = []
    position = 0 if raw.startswith(mark) else raw.find(b"\r\n" + mark) + 2
    if position == 1:
        raise BadParameter("The form's boundary does not occur in the body.", None, "invalid_form")
    while raw[position + len(mark) : position + len(mark) + 2] != b"--":
        head = position + len(mark)
        value = raw.find(b"\r\n\r\n", head)
        end = raw.find(b"\r\n" + mark, value + 2) if value >= 0 else -1
        if value < 0 or end < 0 or len(parts) >= PARTS_MAX:
            raise BadParameter("The form is not complete or has too many fields.", None, "invalid_form")
        headers = raw[head:value]
        name = _NAME.search(headers)
        if name is not None:
            is_file = _FILENAME.search(headers) is not None
            parts.append(Part(name.group(1).decode("utf-8", "replace"), is_file, min(value + 4, end), end))
        position = end + 2
    return Form(raw, tuple(parts))


def wav_seconds(file: bytes) -> float | None:
    """How long a WAV file lasts, by its header and by what is really there; None when it is no WAV file.

    Source: the RIFF WAVE format; `fmt ` carries the bytes per second at offset 8.
    """
    if len(file) < 12 or file[:4] != b"RIFF" or file[8:12] != b"WAVE":
        return None
    position, rate = 12, 0
    while position + 8 <= len(file):
        kind = file[position : position + 4]
        (size,) = struct.unpack_from("<I", file, position + 4)
        if kind == b"fmt " and position + 20 <= len(file):
            (rate,) = struct.unpack_from("<I", file, position + 16)
        elif kind == b"data":
            return min(size, len(file) - position - 8) / rate if rate else None
        position += 8 + size + (size & 1)
    return None


def seconds_at_most(file: bytes) -> float:
    """An upper bound of how long an upload lasts: what is held before its true length is known."""
    exact = wav_seconds(file)
    return exact if exact is not None else len(file) / BYTES_PER_SECOND_LEAST
