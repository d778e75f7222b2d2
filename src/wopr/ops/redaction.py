"""Blacks secrets out before anything reaches the disk: by the name beside them, by their shape, and by their value.

Known values are found as they are, broken by white space, percent-encoded (also twice), escaped as in JSON, in base64
at every alignment and in hexadecimal. Work is done on UTF-8 bytes, so that every finding is a span of the same text.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

VALUE_CHARACTERS_MAX = 2_000
# Shorter ones would black out ordinary words everywhere; they are still found by name.
SECRET_BYTES_MIN = 6
LINE_BYTES_MIN = 16
DOTS = "••••"
SECRET_NAME = re.compile(
    r"(passw|passphrase|secret|token|authorization|cookie|api_?key|private|credential)", re.IGNORECASE
)
# A whole word is looked at once and then taken as it is: beginning at each of its letters anew would be quadratic, and
# data without spaces is a word of any length.
_NAMED = rb"(?<![\w.-])(?=[\w.-]*?(?:passw(?:or)?d|passphrase|secret|token(?!s)|api[_-]?key|credential))[\w.-]++"
_OPTION_ENDS = rb"(?<=password)|(?<=passphrase)|(?<=secret)|(?<=token)|(?<=api-key)"
SHAPES = tuple(
    re.compile(pattern)
    for pattern in (
        rb"wopr_(?:read|write|admin|bot|node|join)_[\w-]{6,}",
        rb"[srp]k_(?:live|test)_\w{6,}|whsec_[\w+/=-]{6,}|\bre_\w{8,}",
        rb"gh[pousr]_\w{10,}|github_pat_\w{10,}|glpat-[\w-]{10,}|dckr_pat_[\w-]{10,}|do[por]_v1_\w{10,}",
        rb"\bsk-[\w-]{16,}|\bhf_\w{16,}|\bAKIA[0-9A-Z]{12,}|\bxox[abprs]-[\w-]{10,}|\b\d{8,10}:[\w-]{35}\b",
        rb"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*",
        rb"\$argon2[\w$=,+/.-]{10,}|\$2[aby]\$\d\d\$[\w./]{20,}",
        rb"(?<=://)(?:[^\s/:@]*:[^\s/@]+|[^\s/:@]{20,})(?=@)",
        rb"[?&](?:token|key|secret|password|code)=[^\s&\"']+",
        rb"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        rb"(?i)" + _NAMED + rb"\s*=\s*[\"']?([^\s\"'&;,]+)",
        rb"(?i)[\"']" + _NAMED + rb"\\?[\"']\s*:\s*\\?[\"']([^\"']+)",
        rb"(?i)(?<![\w-])(?=[\w-]*?--)[\w-]*+(?:" + _OPTION_ENDS + rb")(?:\s+|=)([^\s\"']+)",
        rb"(?i)\bauthorization[\"']?\s*:\s*[\"']?(?:(?:bearer|basic|token)\s+)?([^\s\"']+)",
        rb"(?i)\bbearer\s+([\w.~+/=-]{8,})",
    )
)
_UNSEEN = rb"\s+|\xe2\x80[\x8b-\x8d\xa8\xa9]|\xc2[\x85\xa0]|\xef\xbb\xbf"
_SPACE = re.compile(_UNSEEN)
_SLASHES = re.compile(_UNSEEN + rb"|\\+")
_BREAKS = re.compile(_UNSEEN + rb"|\\+[nrt]?")
_PERCENT = re.compile(rb"%([0-9a-fA-F]{2})")
_ESCAPED = re.compile(rb"\\u00([0-9a-fA-F]{2})|\\x([0-9a-fA-F]{2})")
_SIGNS = {_SLASHES: b"\\", _BREAKS: b"\\", _ESCAPED: b"\\", _PERCENT: b"%"}
# How a text may be written. Each chain ends without what a reader leaves out (white space; the backslashes of any
# number of escapings, with or without the letter of a line break behind them), and known values are kept without it.
_READINGS = (
    (_SPACE,),
    (_SLASHES,),
    (_BREAKS,),
    (_PERCENT, _SPACE),
    (_PERCENT, _BREAKS),
    (_PERCENT, _PERCENT, _BREAKS),
    (_ESCAPED, _SLASHES),
    (_ESCAPED, _PERCENT, _BREAKS),
)
Span = tuple[int, int]


@dataclass(frozen=True)
class Known:
    """Secrets of this installation by value: every form in which one of them may stand in a text."""

    forms: tuple[bytes, ...] = ()


def known(values: Iterable[str]) -> Known:
    """The forms of these values; values that are too short to be told from words are left out."""
    forms = {form for value in values for form in _forms(value.encode("utf-8", "surrogatepass"))}
    return Known(tuple(sorted(forms, key=lambda form: (-len(form), form))))


def redacted(value: Any, secrets: Known | None = None) -> Any:  # whatever json can write
    """The same value without secrets: those named like one, those that look like one, and those that are known."""
    return _Censor(secrets or Known()).clean(value)


def holds_secret(text: str, secrets: Known) -> bool:
    """Whether one of these secrets stands in the text, however it is written."""
    return any(_found(text.encode("utf-8", "backslashreplace"), secrets))


@dataclass(frozen=True)
class _Censor:
    secrets: Known

    def clean(self, value: Any) -> Any:  # whatever json can write
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, list | tuple | set | frozenset):
            items = sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)
            # A secret that was split into a list of lines is one text again here.
            if items and all(isinstance(item, str) for item in items):
                return self.texts(items)
            return [self.clean(item) for item in items]
        if value is None or isinstance(value, bool):
            return value
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        clean = self.texts([text])[0]
        return value if isinstance(value, int | float) and clean == text else clean

    def texts(self, texts: Sequence[str]) -> list[str]:
        """These texts, looked at as the lines of one."""
        # A lone surrogate can't be written as UTF-8; what can't be written can't be journalled.
        parts = [text.encode("utf-8", "backslashreplace") for text in texts]
        spans = _merged(self._spans(b"\n".join(parts)))
        clean, begin = [], 0
        for part in parts:
            own = [(max(s - begin, 0), e - begin) for s, e in spans if s < begin + len(part) and e > begin]
            clean.append(_covered(part, own)[:VALUE_CHARACTERS_MAX])
            begin += len(part) + 1
        return clean

    def _mapping(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        # {"name": "DB_PASSWORD", "value": …} is how container engines write an environment.
        named = next((value[k] for k in ("name", "key", "Name", "Key") if isinstance(value.get(k), str)), "")
        hidden = {"value", "Value"} if SECRET_NAME.search(named) else set()
        clean: dict[str, Any] = {}
        for key, item in value.items():
            unique = self.texts([str(key)])[0]
            while unique in clean:
                unique += "'"
            secret = SECRET_NAME.search(str(key)) or key in hidden
            clean[unique] = DOTS if secret else self.clean(item)
        return clean

    def _spans(self, text: bytes) -> Iterator[Span]:
        for shape in SHAPES:
            for match in shape.finditer(text):
                yield match.span(shape.groups)  # the value's group, or the whole where there is none
        for reading, forms in _found(text, self.secrets):
            yield from _located(text, reading, forms)


def _found(text: bytes, secrets: Known) -> Iterator[tuple[Sequence["re.Pattern[bytes]"], Sequence[bytes]]]:
    """The ways of reading this text that show a secret, each with the forms that it shows."""
    if not secrets.forms or len(text) < SECRET_BYTES_MIN:
        return
    for reading in _READINGS:
        if _SIGNS.get(reading[0], b"") not in text:
            continue
        plain = text
        for pattern in reading:
            plain = pattern.sub(_meant, plain)
        forms = [form for form in secrets.forms if form in plain]
        if forms:
            yield reading, forms


def _forms(value: bytes) -> Iterator[bytes]:
    """Every spelling of one secret, without what readings leave out."""
    lines = [line for line in value.splitlines() if len(line.strip()) >= LINE_BYTES_MIN]
    for secret in {value, value.strip(), *(lines if len(lines) > 1 else [])}:
        bare = _SPACE.sub(b"", secret)
        if len(bare) < SECRET_BYTES_MIN:
            continue
        shown = (bare, _SLASHES.sub(b"", secret), _BREAKS.sub(b"", secret), _SPACE.sub(b"+", secret.strip()))
        yield from (form for form in shown if len(form) >= SECRET_BYTES_MIN)
        quoted = json.dumps(secret.decode("utf-8", "replace"))[1:-1].encode()
        for spelling in {secret, bare, quoted, quote_plus(secret).encode(), secret.strip() + b"\n"}:
            yield spelling.hex().encode()
            yield spelling.hex().upper().encode()
            yield from _base64(spelling)


def _base64(value: bytes) -> Iterator[bytes]:
    """What a base64 text shows of `value` whatever stands before it: the characters that only its bits decide."""
    for offset, first in ((0, 0), (1, 2), (2, 3)):
        padded = b"\0" * offset + value
        last = len(padded) * 8 // 6
        for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
            shown = encode(padded)[first:last]
            if len(shown) >= SECRET_BYTES_MIN:
                yield shown


def _meant(match: "re.Match[bytes]") -> bytes:
    """What a matched piece of encoding stands for."""
    digits = match.group(match.lastindex) if match.lastindex else b""
    return bytes.fromhex(digits.decode())


def _located(text: bytes, reading: Sequence["re.Pattern[bytes]"], forms: Sequence[bytes]) -> Iterator[Span]:
    """Where in `text` these forms stand, once it is read so."""
    origin: list[Span] = [(i, i + 1) for i in range(len(text))]
    plain = text
    for pattern in reading:
        pieces: list[bytes] = []
        places: list[Span] = []
        at = 0
        for match in pattern.finditer(plain):
            begin, end = match.span()
            meant = _meant(match)
            pieces += [plain[at:begin], meant]
            places += origin[at:begin] + [(origin[begin][0], origin[end - 1][1])] * len(meant)
            at = end
        plain = b"".join([*pieces, plain[at:]])
        origin = places + origin[at:]
    for form in forms:
        begin = plain.find(form)
        while begin >= 0:
            yield origin[begin][0], origin[begin + len(form) - 1][1]
            begin = plain.find(form, begin + 1)


def _merged(spans: Iterable[Span]) -> Sequence[Span]:
    merged: list[Span] = []
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _covered(text: bytes, spans: Sequence[Span]) -> str:
    pieces, at = [], 0
    for begin, end in spans:
        pieces += [text[at:begin], DOTS.encode()]
        at = end
    return b"".join([*pieces, text[at:]]).decode("utf-8", "replace")
