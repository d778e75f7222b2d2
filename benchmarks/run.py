"""Run the benchmarks one after another; names as arguments choose some: `python benchmarks/run.py gateway up`."""

import signal
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
NOT_BENCHMARKS = {"run", "report", "common"}
INTERRUPTED = 130


def main() -> int:
    """Each script in a process of its own, so that none warms another; the number that failed is the exit code."""
    every = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_BENCHMARKS)
    chosen = sys.argv[1:] or every
    if unknown := [name for name in chosen if name not in every]:
        print(f"no benchmark is named {', '.join(unknown)}; there are {', '.join(every)}", file=sys.stderr)
        return 2
    failed = 0
    for name in chosen:
        print(f"→ {name}", file=sys.stderr, flush=True)
        code = one(name)
        if code == INTERRUPTED:
            return code
        failed += code != 0
    return min(failed, 1)


def one(name: str) -> int:
    """Run one to its end; its exit code. Ctrl-C reaches it as well, and it is waited for while it cleans up."""
    script = subprocess.Popen([sys.executable, str(FOLDER / f"{name}.py")])
    signal.signal(signal.SIGTERM, lambda _number, _frame: script.terminate())
    while True:
        try:
            code = script.wait()
            return INTERRUPTED if code == -signal.SIGINT else code
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    sys.exit(main())
