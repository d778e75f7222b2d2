"""Fetch large files safely: resumed where they were cut off, checked, and in their place only when they are whole.

The part that has arrived is kept beside the target with what the server called this version of it, so that a file that
changed meanwhile is never glued together from two. Hugging Face's servers name the SHA-256 of a large file in the
header `X-Linked-Etag` of the redirect.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from wopr.core.errors import Conflict, Invalid, Unavailable, UpstreamFailed
from wopr.inference.catalogue import RemoteFile
from wopr.inference.gguf_header import read_header

ATTEMPTS_MAX = 5
RETRY_SECONDS = 1.0
CONNECT_SECONDS_MAX = 10.0
# Nothing arrived for so long: the connection counts as dead.
STALL_SECONDS_MAX = 30.0
SPARE_BYTES = 256 * 1024 * 1024
SHA256 = re.compile(r"[0-9a-f]{64}")
RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)$")

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Fetched:
    """A file that is in its place. `verified` is `given`, `published` or `size`, by what it was checked."""

    path: Path
    bytes: int
    sha256: str
    verified: str
    fetched: bool


@dataclass(frozen=True)
class _Version:
    """What the server says of the file: the name of this version, its size, its SHA-256 where it publishes one."""

    etag: str | None
    size: int | None
    sha256: str | None


def fetch(file: RemoteFile, folder: Path, progress: Progress, client: httpx.Client) -> Fetched:
    """Bring a file to its place under the folder; at once when it is there already.

    `progress(bytes so far, bytes in all)` is called as it grows. UpstreamFailed when the server can't serve it or the
    bytes are not the right ones, Conflict when another pull of it runs, Unavailable when the disk is too small.
    """
    target = folder / file.path
    if target.exists() and (file.sha256 is None or _digest(target) == file.sha256):
        return Fetched(target, target.stat().st_size, _digest(target), "given" if file.sha256 else "size", False)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with _only_one(part):
        version = _with_retries(lambda: _continue(file, part, progress, client), file)
        return _settle(file, part, target, version)


def new_client() -> httpx.Client:
    """A client with our time limits that follows redirects, as the publishers' servers want."""
    limits = httpx.Timeout(STALL_SECONDS_MAX, connect=CONNECT_SECONDS_MAX)
    return httpx.Client(
        timeout=limits, follow_redirects=True, headers={"user-agent": "wopr", "accept-encoding": "identity"}
    )


def _with_retries(work: Callable[[], _Version], file: RemoteFile) -> _Version:
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return work()
        except httpx.TransportError as error:
            if attempt == ATTEMPTS_MAX:
                raise UpstreamFailed(
                    f"{file.url} broke off {ATTEMPTS_MAX} times: {error or type(error).__name__}.",
                    remedy="Run the same command again: it goes on where it stopped.",
                ) from error
            time.sleep(RETRY_SECONDS * attempt)
    raise AssertionError("the loop above returns or raises")


def _continue(file: RemoteFile, part: Path, progress: Progress, client: httpx.Client) -> _Version:
    """Fetch what is missing of the part; the version that it is of."""
    known = _read_version(part)
    have = part.stat().st_size if known is not None and known.etag else 0
    if known is not None and known.size is not None and have == known.size:
        return known
    # If-Range: the rest of this version, or all of the new one.
    headers = {"range": f"bytes={have}-", "if-range": str(known.etag)} if have and known is not None else {}
    with client.stream("GET", file.url, headers=headers) as answer:
        version, start = _version_of(answer, file, have)
        _check_space(part, (version.size or 0) - start)
        with part.open("r+b") as out:
            out.truncate(start)
            _write_version(part, version)  # after it, or a kill leaves the beginning of another version under this name
            out.seek(start)
            done = start
            progress(done, version.size)
            # As it arrives: collected into larger pieces, the last of them would be lost when the connection breaks.
            for chunk in answer.iter_raw():
                out.write(chunk)
                done += len(chunk)
                progress(done, version.size)
            out.flush()
            os.fsync(out.fileno())
    if version.size is not None and done < version.size:
        raise httpx.ReadError(f"{done} of {version.size} bytes arrived")
    return version


def _version_of(answer: httpx.Response, file: RemoteFile, have: int) -> tuple[_Version, int]:
    """The version that the server sends, and from which byte on."""
    if answer.status_code == httpx.codes.PARTIAL_CONTENT:
        match = RANGE.match(answer.headers.get("content-range", ""))
        if match is None or int(match.group(1)) != have:
            raise UpstreamFailed(f"{file.url} answered another range than was asked.", remedy="Remove the .part file.")
        return _Version(answer.headers.get("etag"), int(match.group(2)), _published(answer)), have
    if answer.status_code != httpx.codes.OK:
        raise UpstreamFailed(
            f"{file.url} answered {answer.status_code} {answer.reason_phrase}.",
            remedy="Check the address, or try again later; what has arrived is kept.",
        )
    length = answer.headers.get("content-length")
    return _Version(answer.headers.get("etag"), int(length) if length else None, _published(answer)), 0


def _published(answer: httpx.Response) -> str | None:
    """The SHA-256 that the server published with the file or on the way to it."""
    for step in (*answer.history, answer):
        for name in ("x-linked-etag", "x-checksum-sha256"):
            value = step.headers.get(name, "").removeprefix("W/").strip('"').lower()
            if SHA256.fullmatch(value):
                return str(value)
    return None


def _settle(file: RemoteFile, part: Path, target: Path, version: _Version) -> Fetched:
    """Check the whole file and put it in its place in one step."""
    digest = _digest(part)
    expected = file.sha256 or version.sha256
    if expected is not None and digest != expected:
        _note(part).unlink(missing_ok=True)
        part.unlink()
        raise UpstreamFailed(
            f"{file.url} arrived with the SHA-256 {digest}, but it should have {expected}. It was thrown away.",
            remedy="Pull it again; if it differs again, do not trust the address.",
        )
    if target.suffix == ".gguf":
        _check_model(file, part)
    size = part.stat().st_size
    part.replace(target)
    _note(part).unlink(missing_ok=True)
    verified = "given" if file.sha256 else "published" if version.sha256 else "size"
    return Fetched(target, size, digest, verified, True)


def _check_model(file: RemoteFile, part: Path) -> None:
    """A page of a web site arrives whole, too; as a model it would be in nobody's list, and in the way."""
    try:
        read_header(part)
    except Invalid as error:
        _note(part).unlink(missing_ok=True)
        part.unlink()
        raise UpstreamFailed(
            f"What {file.url} sends is no GGUF model. It was thrown away.",
            remedy="Give the address of the file itself, not of the page that shows it.",
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_space(part: Path, more: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if more + SPARE_BYTES > free:
        raise Unavailable(
            f"The file needs {more >> 20} MB more, and {free >> 20} MB are free in {part.parent}.",
            remedy="Make room, or choose another folder with MODELS_DIR.",
        )


@contextlib.contextmanager
def _only_one(part: Path) -> Iterator[None]:
    """Two pulls of the same file take turns by refusing: the second would write into the first one's part."""
    with part.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"{part.name} is being fetched by another process.", remedy="Wait until it is through."
            ) from error
        if not os.fstat(lock.fileno()).st_nlink:
            raise Conflict(f"{part.name} was given up by another process just now.", remedy="Pull it again.")
        try:
            yield
        finally:
            # Nothing came: nothing to go on with later.
            if part.exists() and not part.stat().st_size:
                part.unlink()


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_version(part: Path) -> _Version | None:
    try:
        return _Version(**json.loads(_note(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write_version(part: Path, version: _Version) -> None:
    _note(part).write_text(json.dumps(asdict(version)), encoding="utf-8")
