"""WAV files of every kind that people send, and what is said about those that can't be read."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wopr.inference.engines.sound import NotDecodable, Sound, read_wav, resample, to_pcm16, to_wav


def wav(
    data: bytes, *, kind: int = 1, channels: int = 1, rate: int = 16_000, bits: int = 16, size: int | None = None
) -> bytes:
    frame = channels * bits // 8
    head = struct.pack(
        "<4sI4s4sIHHIIHH",
        b"RIFF",
        36 + len(data),
        b"WAVE",
        b"fmt ",
        16,
        kind,
        channels,
        rate,
        rate * frame,
        frame,
        bits,
    )
    return head + struct.pack("<4sI", b"data", len(data) if size is None else size) + data


def tone(rate: int, hertz: float = 440.0, seconds: float = 0.5) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize(
    ("kind", "bits", "encode"),
    [
        (1, 8, lambda t: (t * 127 + 128).round().astype(np.uint8).tobytes()),
        (1, 16, lambda t: (t * 32767).astype("<i2").tobytes()),
        (1, 24, lambda t: b"".join(int(v * 8388607).to_bytes(3, "little", signed=True) for v in t)),
        (1, 32, lambda t: (t * 2147483647).astype("<i4").tobytes()),
        (3, 32, lambda t: t.astype("<f4").tobytes()),
        (3, 64, lambda t: t.astype("<f8").tobytes()),
    ],
)
def test_every_width_is_read_as_the_same_sound(kind: int, bits: int, encode: object) -> None:
    wave = tone(16_000)
    sound = read_wav(wav(encode(wave), kind=kind, bits=bits))  # type: ignore[operator]
    assert np.abs(sound.samples - wave).max() < 0.01


def test_channels_are_mixed_and_sizes_of_streaming_programs_accepted() -> None:
    left, right = np.full(100, 0.5), np.full(100, -0.25)
    data = (np.stack([left, right], axis=1) * 32767).astype("<i2").tobytes()
    for size in (None, 0, 0xFFFFFFFF):
        sound = read_wav(wav(data, channels=2, size=size))
        assert np.allclose(sound.samples, 0.125, atol=1e-3)


def test_resampling_keeps_a_tone_and_removes_what_the_new_rate_cannot_hold() -> None:
    kept = resample(Sound(tone(44_100).astype(np.float32), 44_100), 16_000)
    gone = resample(Sound(tone(44_100, hertz=15_000).astype(np.float32), 44_100), 16_000)
    assert abs(kept.seconds - 0.5) < 0.001
    assert np.abs(kept.samples[500:-500] - tone(16_000)[500:-500]).max() < 0.02
    assert np.abs(gone.samples[500:-500]).max() < 0.05


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"ID3\x04rest of it....", "MP3"),
        (b"\x1a\x45\xdf\xa3 and so on.", "WebM"),
        (b"OggS............", "Ogg"),
        (wav(b"\0" * 8, kind=85), "encoding"),
        (wav(b"\0" * 8, channels=99), "99 channels"),
        (b"RIFF\0\0\0\0WAVE", "no sound"),
    ],
)
def test_what_is_no_wav_is_named(data: bytes, what: str) -> None:
    with pytest.raises(NotDecodable, match=what):
        read_wav(data)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    for candidate in (data, wav(b"")[:36] + data, wav(data)):
        try:
            sound = read_wav(candidate)
        except NotDecodable:
            continue
        assert read_wav(to_wav(sound)).rate == sound.rate
        assert len(to_pcm16(sound)) == 2 * len(sound.samples)
