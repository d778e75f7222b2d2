"""Reads a JSON request where its bytes are, and edits single values in place: whatever we don't know stays untouched.

Only the top level is looked at: each value keeps its position, so that replacing the model's name or adding
`stream_options.include_usage` leaves every other byte as the client wrote it.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from wopr.inference.gateway.errors import BadParameter

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
Span = tuple[int, int]


@dataclass(slots=True)
class JsonObject:
    """An object's text with the values of its members (the last of a name wins) and where each of them stands."""

    text: str
    start: int
    values: dict[str, Any] = field(default_factory=dict)  # whatever JSON holds
    spans: dict[str, list[Span]] = field(default_factory=dict)


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
        found, end = scan_object(text, _skip(text, 0))
    except (ValueError, RecursionError) as error:
        raise BadParameter(f"The body is not a JSON object: {error}.", None, "invalid_json") from None
    if _skip(text, end) != len(text):
        raise BadParameter("The body goes on after the JSON object.", None, "invalid_json")
    return found


def scan_object(text: str, start: int) -> tuple[JsonObject, int]:
    """The object that begins at `start`, and the position after it. ValueError when there is none."""
    found = JsonObject(text, start)
    if text[start : start + 1] != "{":
        raise ValueError("it does not begin with {")
    position = _skip(text, start + 1)
    if text[position : position + 1] == "}":
        return found, position + 1
    while True:
        if text[position : position + 1] != '"':
            raise ValueError(f"a name is expected at character {position}")
        name, position = _DECODER.raw_decode(text, position)
        position = _skip(text, position)
        if text[position : position + 1] != ":":
            raise ValueError(f"a colon is expected at character {position}")
        begin = _skip(text, position + 1)
        value, end = _DECODER.raw_decode(text, begin)
        found.values[name] = value
        found.spans.setdefault(name, []).append((begin, end))
        position = _skip(text, end)
        mark = text[position : position + 1]
        if mark == "}":
            return found, position + 1
        if mark != ",":
            raise ValueError(f"a comma or }} is expected at character {position}")
        position = _skip(text, position + 1)


def model_edits(body: JsonObject, model: str) -> list[Edit]:
    """Name another model, however often the name is given."""
    return [Edit(span, json.dumps(model)) for span in body.spans.get("model", ())]


def usage_edits(body: JsonObject) -> list[Edit]:
    """Ask for the usage chunk; nothing when the client did, or when `stream_options` is something we don't know."""
    if "stream_options" not in body.spans:
        return [_insertion(body, '"stream_options":{"include_usage":true}')]
    edits: list[Edit] = []
    for begin, end in body.spans["stream_options"]:
        if body.text[begin] == "{":
            inner, _ = scan_object(body.text, begin)
            if "include_usage" in inner.spans:
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
    return Edit((first, first), member + ("," if target.spans else ""))


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
