"""How every benchmark prints: one table in Markdown, with the machine and the date above it; and how it is ended."""

import compileall
import os
import platform
import signal
import statistics
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
INTERRUPTED = 130


def machine() -> str:
    """The date and the machine, as a line above a table."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    day = datetime.now(UTC).date().isoformat()
    system = f"{platform.system()} {platform.release()}"
    return f"{day}, {os.cpu_count()} cores, {model}, Python {platform.python_version()}, {system}"


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print one table."""
    print(f"### {title}\n\n{machine()}\n")
    print("| " + " | ".join(headers) + " |")
    print("|" + "---|" * len(headers))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` (0 to 1) of the values lie, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(part * len(ordered)) - 1))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def say(text: str) -> None:
    """How far it is, on stderr."""
    print(f"  {datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def run(main: Callable[[], None]) -> None:
    """Run a benchmark. Ctrl-C and SIGTERM end it after it has cleaned up."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        say("stopped; cleaning up (once more Ctrl-C leaves everything as it is)")
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)
    # As where a command ran before: a machine on which Python keeps no bytecode would compile anew in each of them.
    compileall.compile_dir(ROOT / "src", quiet=2)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
