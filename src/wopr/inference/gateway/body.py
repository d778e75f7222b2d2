"""Reads a JSON request where its bytes are, and edits single values in place: whatever we don't know stays untouched.

Only the top level is looked at: each value keeps its position, so that replacing the model's name or adding
`stream_options.include_usage` leaves every other byte as the client wrote it.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from wopr.inference.gateway.errors import BadParameter

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
Span = tuple[int, int]


@dataclass(slots=True)
class JsonObject:
    """An object's text and the values of its members (the last of a name wins). `start` is where it begins."""

    text: str
    start: int
    values: dict[str, Any]  # whatever JSON holds
    _spans: dict[str, list[Span]] | None = None

    @property
    def spans(self) -> dict[str, list[Span]]:
        """Where the values of each member stand; found when it is asked for, since most requests need no edit."""
        if self._spans is None:
            self._spans = _find_spans(self.text, self.start)
        return self._spans


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the characters of `span` by `text`."""

    span: Span
    text: str


def parse_body(raw: bytes) -> JsonObject:
    """The request as an object. BadParameter (400) says why when it is none."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise BadParameter(
            f"The body is not UTF-8: {error.reason} at byte {error.start}.", None, "invalid_json"
        ) from None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadParameter(f"The body is not JSON: {error}.", None, "invalid_json") from None
    if not isinstance(values, dict):
        raise BadParameter("The body is not a JSON object.", None, "invalid_json")
    return JsonObject(text, _skip(text, 0), values)


def model_edits(body: JsonObject, model: str) -> list[Edit]:
    """Name another model, however often the name is given."""
    return [Edit(span, json.dumps(model)) for span in body.spans.get("model", ())]


def usage_edits(body: JsonObject) -> list[Edit]:
    """Ask for the usage chunk; nothing when the client did, or when `stream_options` is something we don't know."""
    if "stream_options" not in body.values:
        return [_insertion(body, '"stream_options":{"include_usage":true}')]
    edits: list[Edit] = []
    for begin, end in body.spans["stream_options"]:
        if body.text[begin] == "{":
            inner = JsonObject(body.text, begin, json.loads(body.text[begin:end]))
            if "include_usage" in inner.values:
                edits += [Edit(span, "true") for span in inner.spans["include_usage"]]
            else:
                edits.append(_insertion(inner, '"include_usage":true'))
        elif body.text[begin:end] == "null":
            edits.append(Edit((begin, end), '{"include_usage":true}'))
    return edits


def apply(body: JsonObject, edits: list[Edit]) -> bytes:
    """The text with the edits made, as bytes."""
    parts: list[str] = []
    position = 0
    for edit in sorted(edits, key=lambda each: each.span):
        parts += [body.text[position : edit.span[0]], edit.text]
        position = edit.span[1]
    parts.append(body.text[position:])
    return "".join(parts).encode()


def asks_for_usage(body: JsonObject) -> bool:
    """Whether the client itself wants the usage chunk."""
    options = body.values.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def positive_int(body: JsonObject, *names: str) -> int | None:
    """The first of these members that is a positive whole number."""
    for name in names:
        value = body.values.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _insertion(target: JsonObject, member: str) -> Edit:
    first = target.start + 1
    return Edit((first, first), member + ("," if target.values else ""))


def _find_spans(text: str, start: int) -> dict[str, list[Span]]:
    """Where each member's value stands in an object that is known to be right."""
    spans: dict[str, list[Span]] = {}
    position = _skip(text, start + 1)
    while text[position] != "}":
        name, position = _DECODER.raw_decode(text, position)
        begin = _skip(text, _skip(text, position) + 1)
        _, end = _DECODER.raw_decode(text, begin)
        spans.setdefault(name, []).append((begin, end))
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return spans


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
