"""Stripe's form encoding and its checks of parameters.

`decode` turns `line_items[0][price]=x` into nested values; a `Shape` says which parameters an endpoint has and
turns the texts into integers, booleans and lists, or refuses them with Stripe's own words and codes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from wopr.emulators.stripe.errors import invalid, missing_parameter, not_emulated, unknown_parameter

Value = Any  # a text, or a dictionary of further values: what one form field decodes to
_DEPTH_MAX = 8
_TEXT_LENGTH_MAX = 5000
_METADATA_KEYS_MAX = 50


@dataclass(frozen=True)
class Shape:
    """What one parameter may be."""

    kind: Literal["text", "url", "integer", "boolean", "choice", "hash", "list", "map", "range", "any", "absent"]
    required: bool = False
    choices: tuple[str, ...] = ()
    fields: Mapping[str, "Shape"] = field(default_factory=dict)
    item: "Shape | None" = None
    minimum: int | None = None


TEXT = Shape("text")
URL = Shape("url")
INTEGER = Shape("integer")
COUNT = Shape("integer", minimum=0)
BOOLEAN = Shape("boolean")
METADATA = Shape("map")
RANGE = Shape("range")
ANYTHING = Shape("any")  # looks or wording only: kept on the object, without effect here
NOT_EMULATED = Shape("absent")


def needed(shape: Shape) -> Shape:
    """The same shape, but the request must carry it."""
    return Shape(shape.kind, True, shape.choices, shape.fields, shape.item, shape.minimum)


def choice(*choices: str) -> Shape:
    """One of a few words."""
    return Shape("choice", choices=choices)


def hash_of(**fields: Shape) -> Shape:
    """A nested group of parameters."""
    return Shape("hash", fields=fields)


def list_of(item: Shape) -> Shape:
    """Several values of one shape."""
    return Shape("list", item=item)


def decode(pairs: Iterable[tuple[str, str]]) -> dict[str, Value]:
    """Form fields as nested dictionaries; a list is a dictionary whose keys are its indices."""
    result: dict[str, Value] = {}
    for name, text in pairs:
        head, *rest = name.replace("]", "").split("[")
        if len(rest) > _DEPTH_MAX:
            raise invalid("Invalid request: parameters are nested too deeply.", head)
        target = result
        parts = [head, *rest]
        for part in parts[:-1]:
            inner = target.setdefault(part or str(len(target)), {})
            if not isinstance(inner, dict):
                raise invalid(f"Invalid {head}: a text and a group of parameters were both given.", head)
            target = inner
        target[parts[-1] or str(len(target))] = text
    return result


def read(fields: Mapping[str, Shape], raw: Mapping[str, Value], prefix: str = "") -> dict[str, Value]:
    """The checked parameters; StripeError for unknown, missing and malformed ones."""
    values: dict[str, Value] = {}
    for name in raw:
        if name not in fields:
            raise unknown_parameter(_path(prefix, name))
    for name, shape in fields.items():
        if name in raw:
            values[name] = _value(shape, raw[name], _path(prefix, name))
        if shape.required and values.get(name) is None:
            raise missing_parameter(_path(prefix, name))
    return values


def _path(prefix: str, name: str) -> str:
    return f"{prefix}[{name}]" if prefix else name


def _value(shape: Shape, raw: Value, path: str) -> Value:
    if shape.kind == "absent":
        raise not_emulated(path)
    if shape.kind in ("hash", "list", "map", "range"):
        return _group(shape, raw, path)
    if shape.kind == "any":
        return raw
    if not isinstance(raw, str):
        raise invalid(f"Invalid {shape.kind if shape.kind != 'text' else 'string'}: {path}", path)
    if raw == "":
        return None  # Stripe's way of clearing a value
    return _scalar(shape, raw, path)


def _scalar(shape: Shape, raw: str, path: str) -> Value:
    if shape.kind == "integer":
        return _integer(raw, path, shape.minimum)
    if shape.kind == "boolean":
        if raw not in ("true", "false"):
            raise invalid(f"Invalid boolean: {raw}", path)
        return raw == "true"
    if shape.kind == "choice" and raw not in shape.choices:
        words = (
            f"{', '.join(shape.choices[:-1])}, or {shape.choices[-1]}" if len(shape.choices) > 1 else shape.choices[0]
        )
        raise invalid(f"Invalid {path}: must be one of {words}", path)
    if shape.kind == "url":
        parts = urlsplit(raw)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise invalid("Not a valid URL", path, "url_invalid")
    if len(raw) > _TEXT_LENGTH_MAX:
        raise invalid(f"Invalid string: {path} must be at most {_TEXT_LENGTH_MAX} characters", path)
    return raw


def _integer(raw: str, path: str, minimum: int | None) -> int:
    try:
        number = int(raw)
    except ValueError:
        raise invalid(f"Invalid integer: {raw}", path, "parameter_invalid_integer") from None
    if minimum is not None and number < minimum:
        raise invalid(f"This value must be greater than or equal to {minimum}.", path, "parameter_invalid_integer")
    return number


def _group(shape: Shape, raw: Value, path: str) -> Value:
    if shape.kind == "range":
        if isinstance(raw, str):
            moment = _integer(raw, path, None)
            return {"gte": moment, "lte": moment}
        return read({"gt": INTEGER, "gte": INTEGER, "lt": INTEGER, "lte": INTEGER}, raw, path)
    if raw == "":
        return {} if shape.kind == "map" else None
    if not isinstance(raw, dict):
        raise invalid("Invalid array" if shape.kind == "list" else "Invalid object", path)
    if shape.kind == "hash":
        return read(shape.fields, raw, path)
    if shape.kind == "map":
        return _metadata(raw, path)
    item = shape.item or TEXT
    return [_value(item, value, f"{path}[{index}]") for index, value in raw.items()]


def _metadata(raw: Mapping[str, Value], path: str) -> dict[str, str]:
    if len(raw) > _METADATA_KEYS_MAX:
        raise invalid(f"Metadata can have up to {_METADATA_KEYS_MAX} keys.", path)
    for key, value in raw.items():
        if not isinstance(value, str):
            raise invalid(
                f"Metadata values must be strings, but for key `{key}` you passed in a value of another type.", path
            )
        if len(key) > 40 or len(value) > 500:
            raise invalid("Metadata keys can have up to 40 characters and values up to 500.", _path(path, key))
    return dict(raw)
