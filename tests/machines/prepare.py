"""Make images ahead, while tests that need none are run: python -m tests.machines.prepare platform | others

It tells what it made and how long that took. Without an engine there is nothing to prepare. A test that needs an image
sooner waits for it, and what fails here fails there again.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator

from tests.machines import building
from tests.machines import engine as engines
from tests.machines.engine import Engine
from tests.machines.gpu_images import ensure_gpu_images


def main(which: str) -> int:
    """Make what is missing; an exit code."""
    os.setpgid(0, 0)  # with all that it starts, which ends with it
    signal.signal(signal.SIGTERM, _end)
    if not engines.available():
        print("no Docker engine here, so no image is made")
        return 0
    with engines.running() as engine:
        began = time.monotonic()
        for made in {"platform": platform, "others": others}[which](engine):
            print(f"{made} after {time.monotonic() - began:.0f} s", flush=True)
    return 0


def platform(engine: Engine) -> Iterator[str]:
    """The platform's image, and what stands below and on it."""
    yield building.ensure(engine, "docker-cli")
    made = building.ours(engine, "platform")
    yield made
    ensure_gpu_images(engine, made)
    yield "the images of a GPU node"


def others(engine: Engine) -> Iterator[str]:
    """Everything else."""
    yield building.ours(engine, "bot")
    for name in building.RECIPES:
        yield building.ensure(engine, name)
    yield building.machine(engine, building.ensure(engine, "slim"))


def _end(*_: object) -> None:
    """In order, so that nothing half made and no engine is left."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
