"""Ends the bots that take too much of a machine's disk. A part of `node_agent`, and as it a text on the machine."""

import json
import sys
import time
import urllib.parse
from collections.abc import Iterable
from typing import Any  # the engine's JSON

from wopr.fleet.runtimes.node_engine import OK_MAX, Refused, ask, logged, say
from wopr.fleet.runtimes.scales import Watch, describe, greediest, room_of

# Long enough to close a database, too short to fill a disk.
GRACE_SECONDS = 1
BOTS = "wopr-bot-"
# What is said of a volume that holds too much, of one that grew most while there was too little room, and of neither.
FULL, GREEDY, FITS = "full", "greedy", "fits"


class Guard:
    """Ends the bots that take too much of this machine's disk; whether they start again is decided elsewhere."""

    def __init__(self, installation: str, reserve: int) -> None:
        self._installation = installation
        self._watch = Watch(reserve)
        self._taken: dict[str, int] | None = None
        # The volumes that hold too much, with their limits, and those that grew most while there was too little room.
        self._full: dict[str, int] = {}
        self._greedy: set[str] = set()

    def look(self) -> None:
        """Weigh what bots keep, if it is time to; say what changed, and end who must."""
        # The root of a container is on the disk that has the engine's volumes.
        room, now = room_of("/"), time.monotonic()
        is_short = room.is_short(self._watch.percent)
        if not is_short:
            self._forgive(self._greedy - self._full.keys())
            self._greedy = set()
        if not self._watch.is_due(room, now):
            return
        newest = newest_containers(self._installation)
        # What is stopped has no container for long.
        limits = self._full | {name: int(one["Labels"]["wopr.data-bytes"]) for name, one in newest.items()}
        taken = weigh_beside(self._installation, newest, 2 * max(limits.values())) if limits else {}
        full = {name: limit for name, limit in limits.items() if taken.get(name, 0) > limit}
        most = greediest({name: taken.get(name, 0) for name in running(newest)}, self._taken)
        greedy = self._greedy | ({most} - {""} if is_short and not full else set())
        self._forgive(self._full.keys() - full.keys() - greedy)
        for name, limit in full.items():
            self._tell(newest.get(name), name not in self._full, f"{FULL} {name} {taken[name]} {limit}")
        for name in greedy - full.keys():
            self._tell(newest.get(name), name not in self._greedy, f"{GREEDY} {name} {taken.get(name, 0)}")
        self._full, self._greedy, self._taken = full, greedy, taken
        self._watch.weighed(room, now)

    def _forgive(self, names: Iterable[str]) -> None:
        for name in names:
            say(f"{FITS} {name}")

    def _tell(self, container: dict[str, Any] | None, new: bool, line: str) -> None:
        runs = container is not None and container["State"] == "running"
        if new or runs:
            say(line)  # before its end, as everybody asks why then
        if container is not None and runs:
            ask("POST", f"/containers/{container['Id']}/stop?t={GRACE_SECONDS}")


def running(newest: dict[str, dict[str, Any]]) -> list[str]:
    """The volumes whose containers run."""
    return [name for name, container in newest.items() if container["State"] == "running"]


def weigh_beside(installation: str, newest: dict[str, dict[str, Any]], enough: int) -> dict[str, int]:
    """The bytes that each volume takes: this program again, in a container of its own image that may read them."""
    left = urllib.parse.quote(json.dumps({"label": [f"wopr.scales={installation}"]}))
    for container in ask("GET", f"/containers/json?all=true&filters={left}")[1]:
        ask("DELETE", f"/containers/{container['Id']}?force=true&v=true")
    mine = urllib.parse.quote(json.dumps({"label": [f"wopr.installation={installation}", "wopr.agent"]}))
    image = ask("GET", f"/containers/json?filters={mine}")[1][0]["ImageID"]
    # This program is what stands after `-c`.
    command = ["python3", "-c", sys.orig_argv[2], "weigh", BOTS, str(enough)]
    status, made = ask(
        "POST", "/containers/create", describe(image, ask("GET", "/info")[1]["DockerRootDir"], installation, command)
    )
    if status > OK_MAX:
        raise Refused(1, f"what bots keep can't be weighed: {made.get('message', made)}")
    path = f"/containers/{made['Id']}"
    try:
        ask("POST", f"{path}/start")
        code = ask("POST", f"{path}/wait")[1].get("StatusCode")
        said = logged(f"{path}/logs?stdout=true&stderr=true")
    finally:
        ask("DELETE", f"{path}?force=true&v=true")
    if code != 0:
        raise Refused(1, f"what bots keep can't be weighed: {said[-500:]}")
    found = json.loads(said)
    return {
        name: found.get(name, 0) + found.get(newest[name]["Id"], 0) if name in newest else size
        for name, size in found.items()
    }


def newest_containers(installation: str) -> dict[str, dict[str, Any]]:
    """The newest container of each bot, running or not, by the volume that it has."""
    filters = urllib.parse.quote(json.dumps({"label": [f"wopr.installation={installation}", "wopr.data-bytes"]}))
    listed = ask("GET", f"/containers/json?all=true&filters={filters}")[1]
    ordered = sorted(listed, key=lambda container: int(container["Created"]))
    return {mount["Name"]: container for container in ordered for mount in container["Mounts"] if mount.get("Name")}
