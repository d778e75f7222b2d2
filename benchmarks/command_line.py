"""Goal D14: `wopr --help` and `wopr status`, whole processes, beside a bare Typer program with Rich in the same run."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import median, table

ROUNDS = 15
PEER = """
import rich.console, typer
app = typer.Typer()
@app.command()
def one() -> None: ...
@app.command()
def two() -> None: ...
app()
"""


def milliseconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    return (time.perf_counter() - begun) * 1000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        peer = Path(folder) / "peer.py"
        peer.write_text(PEER, encoding="utf-8")
        commands = {
            "D14 wopr --help": ([sys.executable, "-m", "wopr", "--help"], "250 ms"),
            "D14 wopr status": ([sys.executable, "-m", "wopr", "status"], "500 ms"),
            "peer: Typer with Rich, --help": ([sys.executable, str(peer), "--help"], "–"),
            "bare interpreter": ([sys.executable, "-c", "pass"], "–"),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, (command, _goal) in commands.items():
                times[name].append(milliseconds(command))
    rows = [
        (name, f"{median(times[name]):.0f} ms", f"{max(times[name]):.0f} ms", goal)
        for name, (_, goal) in commands.items()
    ]
    table("Command line", ("what", "median", "slowest", "goal"), rows)


if __name__ == "__main__":
    main()
