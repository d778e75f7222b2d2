"""Static files under a path that contains the hash of all of them, so that browsers may keep them for ever.

The hash stands in the folder (`/static/<hash>/…`), so relative addresses between modules keep working and one changed
file renews them all. The style sheets are joined in the order of their layers; htmx comes out of the installed package.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent / "static"
CSS_LAYERS = ("tokens", "reset", "base", "layout", "components", "pages", "utilities")
HTMX = "static/django_htmx/htmx-2.min.js"
COMPRESSIBLE = {".css", ".js", ".svg", ".txt", ".webmanifest"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent."""

    body: bytes
    gzipped: bytes | None
    media_type: str


@dataclass(frozen=True)
class Assets:
    """All static files, in memory; they are small and few."""

    version: str
    files: dict[str, Asset]

    def url(self, name: str) -> str:
        """The address of a file; KeyError for one that is not there, so that a wrong name can't be shipped."""
        if name not in self.files:
            raise KeyError(f"There is no static file {name!r}.")
        return f"/static/{self.version}/{name}"

    def find(self, version: str, name: str) -> Asset | None:
        """The file, if the version is the current one."""
        return self.files.get(name) if version == self.version else None


@cache
def load_assets(folder: Path = HERE) -> Assets:
    """Read, join and compress everything once, at start."""
    bodies = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".css"
    }
    bodies["wopr.css"] = joined_css(folder)
    bodies["js/htmx.js"] = htmx()
    digest = hashlib.sha256()
    for name, body in sorted(bodies.items()):
        digest.update(name.encode() + b"\0" + body + b"\0")
    return Assets(digest.hexdigest()[:12], {name: _asset(name, body) for name, body in bodies.items()})


def joined_css(folder: Path = HERE) -> bytes:
    """The style sheets in the order of their layers; each file wraps itself in its layer."""
    order = f"@layer {', '.join(CSS_LAYERS)};\n"
    sheets = [path for layer in CSS_LAYERS for path in sorted((folder / "css").glob(f"{layer}*.css"))]
    return order.encode() + b"\n".join(path.read_bytes() for path in sheets)


def htmx() -> bytes:
    """The library as the locked package carries it; b"" is never served in its place."""
    spec = find_spec("django_htmx")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("The package django-htmx is not installed; install the project's dependencies.")
    return (Path(next(iter(spec.submodule_search_locations))) / HTMX).read_bytes()


def _asset(name: str, body: bytes) -> Asset:
    suffix = Path(name).suffix
    known = {".js": "text/javascript", ".css": "text/css", ".webmanifest": "application/manifest+json"}
    kind = known.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    gzipped = gzip.compress(body, 9, mtime=0) if suffix in COMPRESSIBLE else None
    return Asset(body, gzipped, kind + ("; charset=utf-8" if suffix in COMPRESSIBLE else ""))
