"""Sound as numbers: read a WAV of any rate, width and number of channels, bring it to one rate, write one.

Follows the RIFF layout itself, because Python's own reader refuses floating point, and because programs that stream
write sizes of zero or of four gigabytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
RATE_MIN, RATE_MAX = 4_000, 192_000
CHANNELS_MAX = 8
# Half the length of the low-pass filter, in samples of the lower rate.
FILTER_REACH = 16


class NotDecodable(ValueError):
    """The bytes are no sound that this module reads; the message says what they are."""


@dataclass(frozen=True)
class Sound:
    """One channel, from -1 to 1, at `rate` samples a second."""

    samples: NDArray[np.float32]
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class _Format:
    kind: int
    channels: int
    rate: int
    bits: int


def read_wav(data: bytes) -> Sound:
    """The sound of a WAV file, its channels mixed to one. NotDecodable names what is wrong."""
    if len(data) < 12 or data[:4] not in (b"RIFF", b"RIFX") or data[8:12] != b"WAVE":
        raise NotDecodable(f"it is {_guess(data)}, not a WAV file")
    if data[:4] == b"RIFX":
        raise NotDecodable("it is a big-endian WAV file")
    layout: _Format | None = None
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        body = data[at + 8 : at + 8 + size]
        if name == b"fmt ":
            layout = _layout(body)
        elif name == b"data":
            if layout is None:
                raise NotDecodable("its format comes after its data")
            # A size of zero or beyond the end comes from a program that did not know it yet: take what is there.
            return _mono(body if size else data[at + 8 :], layout)
        at += 8 + size + (size & 1)
    raise NotDecodable("it has no sound in it")


def resample(sound: Sound, rate: int) -> Sound:
    """The same sound at another rate: a windowed-sinc low-pass where the rate falls, then linear interpolation."""
    import numpy as np

    if sound.rate == rate or not len(sound.samples):
        return Sound(sound.samples, rate)
    samples = sound.samples
    if rate < sound.rate:
        samples = _low_pass(samples, rate / sound.rate)
    count = max(1, round(len(samples) * rate / sound.rate))
    positions = np.arange(count, dtype=np.float64) * (sound.rate / rate)
    return Sound(np.interp(positions, np.arange(len(samples)), samples).astype(np.float32), rate)


def to_pcm16(sound: Sound) -> bytes:
    """16-bit little-endian samples, clipped."""
    import numpy as np

    return (np.clip(sound.samples, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()


def to_wav(sound: Sound) -> bytes:
    """A WAV file of 16 bits and one channel."""
    data = to_pcm16(sound)
    head = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, PCM, 1, sound.rate, sound.rate * 2, 2, 16
    )
    return head + struct.pack("<4sI", b"data", len(data)) + data


def _layout(body: bytes) -> _Format:
    if len(body) < 16:
        raise NotDecodable("its format is cut off")
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if kind == EXTENSIBLE and len(body) >= 26:
        # The real kind is the beginning of the sub-format's GUID.
        kind = struct.unpack_from("<H", body, 24)[0]
    if (kind, bits) not in ((PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)):
        raise NotDecodable(f"its encoding (kind {kind}, {bits} bits) is neither PCM nor floating point")
    if not RATE_MIN <= rate <= RATE_MAX or not 0 < channels <= CHANNELS_MAX:
        raise NotDecodable(f"it has {channels} channels at {rate} samples a second")
    return _Format(kind, channels, rate, bits)


def _mono(data: bytes, layout: _Format) -> Sound:
    import numpy as np

    frame = layout.channels * layout.bits // 8
    data = data[: len(data) // frame * frame]
    samples = _numbers(data, layout).reshape(-1, layout.channels).mean(axis=1)
    return Sound(np.nan_to_num(samples).astype(np.float32), layout.rate)


def _numbers(data: bytes, layout: _Format) -> NDArray[np.float64]:
    import numpy as np

    if layout.kind == FLOAT:
        return np.frombuffer(data, f"<f{layout.bits // 8}").astype(np.float64)
    if layout.bits == 8:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128.0) / 128.0
    if layout.bits == 24:
        parts = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
        whole = parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16
        return np.where(whole >= 1 << 23, whole - (1 << 24), whole).astype(np.float64) / float(1 << 23)
    return np.frombuffer(data, f"<i{layout.bits // 8}").astype(np.float64) / float(1 << (layout.bits - 1))


def _low_pass(samples: NDArray[np.float32], ratio: float) -> NDArray[np.float32]:
    import numpy as np

    reach = round(FILTER_REACH / ratio)
    steps = np.arange(-reach, reach + 1)
    # 0.9: the filter's slope should lie below the new half rate, not across it.
    kernel = np.sinc(steps * ratio * 0.9) * np.hamming(len(steps))
    return np.convolve(samples, (kernel / kernel.sum()).astype(np.float32), mode="same").astype(np.float32)


def _guess(data: bytes) -> str:
    """What the bytes look like, so that the error helps."""
    marks = (
        (b"ID3", "an MP3 file"), (b"\xff\xfb", "an MP3 file"), (b"\xff\xf3", "an MP3 file"), (b"OggS", "an Ogg file"),
        (b"fLaC", "a FLAC file"), (b"\x1a\x45\xdf\xa3", "a WebM file"),
    )  # fmt: skip
    if data[4:8] == b"ftyp":
        return "an MP4 file"
    return next((what for mark, what in marks if data.startswith(mark)), "empty" if not data else "something else")
