"""Compose files and Caddyfiles as their text says it: services with what they run, sites with their addresses.

Read for checks only, so a file that can't be read is a fault to tell and not an error.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

# ${NAME}, ${NAME:-default}, ${NAME-default}, ${NAME:?message}: what compose interpolates.
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<sign>:?[-?+])(?P<rest>[^}]*))?\}|\$(?P<bare>[A-Za-z_]\w*)")
PLACEHOLDER = re.compile(r"\{\$(?P<name>\w+)(?::(?P<default>[^}]*))?\}")


class Unreadable(Exception):
    """A file is no compose file; the text says where."""


@dataclass(frozen=True)
class Service:
    """A service of a compose file, interpolated. `environment` holds what the file itself sets."""

    name: str
    image: str
    command: Sequence[str]
    environment: Mapping[str, str]
    container: str = ""


def read_compose(text: str, values: Mapping[str, str]) -> Sequence[Service]:
    """The services of a file, by name, with the variables of its `.env`. Unreadable when it is no compose file."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise Unreadable(f"line {mark.line + 1} is no YAML" if mark else "it is no YAML") from error
    found = content.get("services") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise Unreadable("it has no services")
    return [_service(str(name), one, values) for name, one in sorted(found.items()) if isinstance(one, dict)]


def read_sites(text: str, values: Mapping[str, str]) -> Sequence[str]:
    """The addresses for which a Caddyfile has a site, as they are written, with the variables in their place."""
    return list(_sites(PLACEHOLDER.sub(lambda found: values.get(found["name"]) or found["default"] or "", text)))


def _sites(text: str) -> Iterator[str]:
    depth, pending = 0, ""
    for line in text.splitlines():
        bare = line.split("#", 1)[0].strip() if not line.lstrip().startswith("#") else ""
        opens = bare.endswith("{")
        if depth == 0 and bare and (opens or bare.endswith(",")):
            pending += " " + bare.removesuffix("{").strip()
            if opens and not pending.strip().startswith("("):
                yield from (address for address in re.split(r"[,\s]+", pending) if address)
            pending = "" if opens else pending
        depth += opens - (bare == "}")


def _service(name: str, one: Mapping[str, Any], values: Mapping[str, str]) -> Service:
    command = one.get("command") or []
    words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    given = one.get("environment") or {}
    pairs = given.items() if isinstance(given, dict) else (str(pair).partition("=")[::2] for pair in given)
    return Service(
        name=name,
        image=_interpolated(str(one.get("image") or ""), values),
        command=[_interpolated(word, values) for word in words],
        environment={str(key): _interpolated(str(value), values) for key, value in pairs if value is not None},
        container=_interpolated(str(one.get("container_name") or ""), values),
    )


def _interpolated(text: str, values: Mapping[str, str]) -> str:
    def value(found: "re.Match[str]") -> str:
        given = values.get(found["name"] or found["bare"], "")
        sign, rest = found["sign"] or "", found["rest"] or ""
        if sign.endswith("+"):
            return _interpolated(rest, values) if given else ""
        return given or (_interpolated(rest, values) if sign.endswith("-") else "")

    return VARIABLE.sub(value, text)
