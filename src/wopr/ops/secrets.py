"""The secrets of this installation, read so that the journal knows what never to write, and which of them are set."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values

from wopr.core.environment import environment
from wopr.core.files import DATABASE_URL_FILE, RUNNING_FILE, SECRETS_FILE
from wopr.ops.redaction import Known, known

# Files under the home folder that hold variables; on a VPS also the operator's own and those of the two slots.
VARIABLE_FILES = (SECRETS_FILE, RUNNING_FILE, ".env", "stack.env", "slots/blue.env", "slots/green.env")
RELEASED_FILES, RELEASES_MAX = "releases/*/env", 5
SECRET_VARIABLE = re.compile(
    r"passw|passphrase|secret|token|credential|api_?key|(?<!public)_key$|^(?:database|smtp)_url$", re.IGNORECASE
)
NOT_ITSELF_SECRET = re.compile(r"_(?:file|path|dir|id|name|user|username|seconds|max|min)$", re.IGNORECASE)
# What a stranger would try first is no secret, and blacking it out would make every page unreadable.
WORDS = frozenset({"postgres", "password", "changeme", "disabled", "enabled", "localhost"})


def known_secrets(home: Path, more: tuple[str, ...] = ()) -> Known:
    """Every secret value of the installation under `home` and of this process's environment, ready to be found."""
    files = tuple((str(path), path.stat().st_mtime_ns) for path in _files(home))
    variables = {name: value for name, value in environment().items() if _is_secret(name, value)}
    return _known(files, tuple(sorted(variables.items())), more)


def secret_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of these variables that are secrets, by name."""
    return {name: value for name, value in variables.items() if _is_secret(name, value)}


def variable_files(home: Path) -> Sequence[Path]:
    """The files of an installation that set variables, those that are there."""
    return [home / name for name in VARIABLE_FILES if (home / name).is_file()]


def read_variables(path: Path) -> dict[str, str]:
    """The variables that a file sets; nothing when it can't be read."""
    try:
        return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}
    except (OSError, UnicodeDecodeError):
        return {}


def fingerprint(key: bytes, name: str, value: str) -> str:
    """Eight digits that change when a secret does; without `key`, which stays in the home folder, they say nothing."""
    return hashlib.blake2b(f"{name}={value}".encode(), key=key, digest_size=4).hexdigest()


@lru_cache(maxsize=16)
def _known(files: tuple[tuple[str, int], ...], variables: tuple[tuple[str, str], ...], more: tuple[str, ...]) -> Known:
    values: set[str] = {part for value in more for part in _values(value)}
    for _, value in variables:
        values.update(_values(value))
    for file, _ in files:
        path = Path(file)
        if path.name == DATABASE_URL_FILE:
            values.update(_url_passwords(path.read_text(encoding="utf-8", errors="replace").strip()))
            continue
        for name, value in read_variables(path).items():
            if _is_secret(name, value):
                values.update(_values(value))
    return known(value for value in values if value.lower() not in WORDS)


def _files(home: Path) -> Iterator[Path]:
    yield from variable_files(home)
    # A rollback brings old values back, so those of the last releases are secrets still.
    yield from sorted(home.glob(RELEASED_FILES))[-RELEASES_MAX:]
    if (home / DATABASE_URL_FILE).is_file():
        yield home / DATABASE_URL_FILE


def _is_secret(name: str, value: str) -> bool:
    if not value:
        return False
    if SECRET_VARIABLE.search(name) and not NOT_ITSELF_SECRET.search(name):
        return True
    return bool("://" in value and any(_url_passwords(value)))


def _values(value: str) -> Iterator[str]:
    """What of a variable is secret: of an address only the password, of a list each member too."""
    if "://" in value:
        yield from _url_passwords(value)
        return
    yield value
    if "," in value:
        yield from (part.strip() for part in value.split(","))


def _url_passwords(value: str) -> Iterator[str]:
    try:
        parts = urlsplit(value)
        password, user = parts.password, parts.username
    except ValueError:
        return
    # A password that is the user's name is known to everybody, and the name stands in every other line.
    if password and password != user:
        yield password
        yield unquote(password)
