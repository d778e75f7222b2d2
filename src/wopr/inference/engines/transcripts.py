"""What a transcription looks like on the wire: OpenAI's five forms of the same words."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
# A pause this long between two words begins a new segment; so does a segment of this length.
PAUSE_SECONDS = 0.6
SEGMENT_SECONDS_MAX = 12.0


@dataclass(frozen=True)
class Word:
    """One word and when it was said, in seconds from the beginning."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Segment:
    """Words that belong together."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording of `seconds`."""

    segments: Sequence[Segment]
    words: Sequence[Word]
    language: str
    seconds: float

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)


def segments_of(words: Sequence[Word]) -> list[Segment]:
    """The words in segments, parted at pauses."""
    groups: list[list[Word]] = []
    for word in words:
        last = groups[-1] if groups else None
        if last and word.start - last[-1].end < PAUSE_SECONDS and word.end - last[0].start <= SEGMENT_SECONDS_MAX:
            last.append(word)
        else:
            groups.append([word])
    return [Segment(" ".join(w.text for w in group), group[0].start, group[-1].end) for group in groups]


def render(transcript: Transcript, form: str, *, with_words: bool) -> tuple[str, str]:
    """The body and its content type in one of FORMATS."""
    if form == "text":
        return f"{transcript.text}\n", "text/plain"
    if form == "srt":
        return _subtitles(transcript, ","), "application/x-subrip"
    if form == "vtt":
        return f"WEBVTT\n\n{_subtitles(transcript, '.')}", "text/vtt"
    if form == "json":
        usage = {"type": "duration", "seconds": max(1, round(transcript.seconds))}
        return json.dumps({"text": transcript.text, "usage": usage}, ensure_ascii=False), "application/json"
    return json.dumps(_verbose(transcript, with_words=with_words), ensure_ascii=False), "application/json"


def _verbose(transcript: Transcript, *, with_words: bool) -> dict[str, object]:
    body: dict[str, object] = {
        "task": "transcribe",
        "language": transcript.language,
        "duration": round(transcript.seconds, 3),
        "text": transcript.text,
        "segments": [
            {"id": i, "start": round(s.start, 2), "end": round(s.end, 2), "text": s.text}
            for i, s in enumerate(transcript.segments)
        ],
        "usage": {"type": "duration", "seconds": max(1, round(transcript.seconds))},
    }
    if with_words:
        body["words"] = [{"word": w.text, "start": round(w.start, 2), "end": round(w.end, 2)} for w in transcript.words]
    return body


def _subtitles(transcript: Transcript, point: str) -> str:
    return "".join(
        f"{i}\n{_stamp(s.start, point)} --> {_stamp(s.end, point)}\n{s.text}\n\n"
        for i, s in enumerate(transcript.segments, start=1)
    )


def _stamp(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
