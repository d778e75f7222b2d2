"""The browser that tests drive: Debian's Chromium, or the one that is installed here."""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

from tests.preload import compiled

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""


@functools.cache
def calm() -> dict[str, str | float | bool]:
    """An environment in which a browser does not notice networks of containers; without a compiler the usual one."""
    if shutil.which("cc") is None:
        return dict(os.environ)
    folder = tempfile.mkdtemp(prefix="wopr-browser-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = compiled(Path(__file__).with_name("no_netlink.c"), Path(folder))
    return {**os.environ, "LD_PRELOAD": str(library)}
