"""Libraries that a test has preloaded into a process, compiled when they are needed."""

import subprocess
from pathlib import Path


def compiled(source: Path, folder: Path) -> Path:
    """The library made from one C file, in a folder; it needs `cc`."""
    library = folder / f"{source.stem}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60)
    return library
