"""What an image is built from, as one stream for `docker build -`: sources and prepared packages, in a fixed order with
fixed owners, modes and times, so that the same inputs always give the same bytes.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from wopr.delivery.image_packages import FILE_TIME

# Relative to the checkout; a folder means everything below it.
PLATFORM_FILES = (
    "Dockerfile",
    "LICENSE",
    "pyproject.toml",
    "deploy/Caddyfile",
    "deploy/cloud-init",
    "deploy/compose.yaml",
    "deploy/images",
    "src/wopr",
)
BOT_FILES = (
    "Dockerfile.bot",
    "LICENSE",
    "pyproject.toml",
    "deploy/images",
    "src/wopr/__init__.py",
    "src/wopr/bot",
    "src/wopr/delivery/image_packages.py",
)
EXECUTABLE, PLAIN = 0o755, 0o644


def digest(project: Path, names: Sequence[str], more: Mapping[str, str]) -> str:
    """What identifies an image's inputs: the content of its files, and everything else that goes into it."""
    summed = hashlib.sha256(repr(sorted(more.items())).encode())
    for name, path in _files(project, names):
        content = path.read_bytes()
        summed.update(f"\0{name}\0{_mode(path)}\0{len(content)}\0".encode() + content)
    return summed.hexdigest()[:32]


def write_context(out: IO[bytes], project: Path, names: Sequence[str], site: Path | None) -> int:
    """Write the tar stream: the files of the checkout, and `site` as `site/`; the number of bytes of all files."""
    total = 0
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        prepared = _files(site, (".",)) if site else iter(())
        for name, path in (*_files(project, names), *((f"site/{name}", path) for name, path in prepared)):
            entry = tarfile.TarInfo(name)
            entry.mtime, entry.mode = FILE_TIME, _mode(path)
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
                archive.addfile(entry)
                continue
            content = path.read_bytes()
            entry.size = len(content)
            total += entry.size
            archive.addfile(entry, io.BytesIO(content))
    return total


def _files(root: Path, names: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Every file with its name in the context, sorted."""
    for name in names:
        start = root / name
        if start.is_file():
            yield name, start
            continue
        for path in sorted(start.rglob("*")):
            if (path.is_file() or path.is_symlink()) and "__pycache__" not in path.parts:
                yield path.relative_to(root).as_posix(), path


def _mode(path: Path) -> int:
    return EXECUTABLE if path.stat().st_mode & 0o100 else PLAIN
