"""Ports that stay free until a test uses them: no other worker takes them, and the kernel hands none of them out."""

import itertools
import os
import random
import socket
from contextlib import ExitStack

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
# Below 32,768, where the kernel's own begin. Chance parts runs beside each other.
PORTS = itertools.count(10_000 + 5_000 * (WORKER % 4) + random.randrange(4_000))


def port() -> int:
    """A free port."""
    return successive_ports(1)


def successive_ports(length: int) -> int:
    """The first of so many free ports, one after the other."""
    while True:
        found = [next(PORTS) for _ in range(length)]
        with ExitStack() as held:
            try:
                for number in found:
                    held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            return found[0]
