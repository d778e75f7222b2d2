"""Run the benchmarks one after another; names as arguments choose some: `python benchmarks/run.py gateway up`."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
NOT_BENCHMARKS = {"run", "report", "common"}


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
        failed += subprocess.run([sys.executable, str(FOLDER / f"{name}.py")], check=False).returncode != 0
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
