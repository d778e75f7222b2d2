"""Goal D12: both machines of the local topology up and their node serving, by `wopr local up`.

Cold: no volumes, the images on this host, piped into the machines; a first release. Warm: after
`wopr local down`, which keeps the volumes.

    benchmarks/topology.py --cold 1 --warm 5
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from report import ROOT, median, run, say, table

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.machines import building, engine
from tests.runbook.machines import Machines, prepared

COLD_SECONDS, WARM_SECONDS = 120, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cold", type=int, default=1, help="boots without volumes")
    parser.add_argument("--warm", type=int, default=3, help="boots on the volumes of the one before")
    given = parser.parse_args()
    with engine.running() as docker, tempfile.TemporaryDirectory(prefix="wopr-bench-") as folder:
        for name in building.THIRD_PARTIES:
            building.ensure(docker, name)
        platform, bot = building.ours(docker, "platform"), building.ours(docker, "bot")
        with prepared(docker, platform, bot, Path(folder)) as machines:
            shutil.copytree(ROOT / "deploy", machines.local.parent)
            machines.choose()
            cold = [boot(machines, "cold", "--wipe") for _ in range(given.cold)]
            warm = [boot(machines, "warm") for _ in range(given.warm)]
    rows = [
        (name, len(seconds), f"{median(seconds):.1f} s", f"{max(seconds):.1f} s", f"{goal} s")
        for name, seconds, goal in (("cold, images present", cold, COLD_SECONDS), ("warm", warm, WARM_SECONDS))
        if seconds
    ]
    table("D12 both machines up and the node serves", ("boot", "runs", "median", "worst", "goal"), rows)


def boot(machines: Machines, kind: str, *how: str) -> float:
    """Stop what runs, start it again; the seconds until the node serves."""
    machines.wopr("down", "--yes", *how)
    up = machines.wopr("up")
    say(f"{kind} in {up['seconds']:.1f} s")
    return float(up["seconds"])


if __name__ == "__main__":
    run(main)
