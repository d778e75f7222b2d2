"""Goal D1: `wopr up` on a warm machine until every service is ready; first start, and later starts on the same data."""

import shutil
import tempfile
import time
from pathlib import Path

from report import median, table
from tests.stack import start

STARTS = 4


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="wopr-bench-"))
    ready, stopped = [], []
    try:
        for _ in range(STARTS):
            stack = start(folder / "home")
            ready.append(time.monotonic() - stack.started)
            begun = time.monotonic()
            stack.stop()
            stopped.append(time.monotonic() - begun)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = [
        ("D1 first start (makes the database)", f"{ready[0]:.1f} s", "8 s"),
        (f"D1 later starts, median of {STARTS - 1}", f"{median(ready[1:]):.1f} s", "8 s"),
        ("Ctrl-C until everything is gone, slowest", f"{max(stopped):.1f} s", "5 s"),
    ]
    table("wopr up", ("what", "measured", "goal"), rows)


if __name__ == "__main__":
    main()
