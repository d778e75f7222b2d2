"""Looks after one machine of a Swarm: the fence around its bots, and bots whose data grew too large.

It runs in a container on every machine, given to Python as text (`python3 -c`), so that it is always the one that the
API knows, whatever image it runs in: it imports nothing but the standard library. A Swarm's manager can do none of this
from afar, which is why it must have the machine's own engine and the right to administer the network.

With arguments `remove VOLUME` it removes a volume as soon as nothing uses it, and ends.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any, TextIO  # the engine's JSON

SOCKET = "/var/run/docker.sock"
VARIABLE = "WOPR_NODE"
ROUND_SECONDS = 20.0
REMOVE_SECONDS_MAX = 60.0
OK_MAX, NOT_FOUND, CONFLICT = 299, 404, 409
# Above those of the fence's own script.
NO_PROTECTION = 21
UP = "up"


class Refused(Exception):
    """What can't be done, with the exit code that tells the API why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class LocalEngine(http.client.HTTPConnection):
    """A connection to this machine's engine."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60.0)
        self.sock.connect(SOCKET)


def main(arguments: list[str]) -> int:
    """Do what was asked; the exit code."""
    try:
        if arguments[:1] == ["remove"]:
            remove(arguments[1])
        else:
            watch(json.loads(os.environ[VARIABLE]))
    except Refused as refusal:
        say(str(refusal), sys.stderr)
        return refusal.code
    return 0


def watch(told: dict[str, Any]) -> None:
    """Keep everything in place; ends only by an error."""
    require_protection()
    said = False
    while True:
        if told["fence"]:
            put_up(told["fence"])
        if not said:
            say(UP)
            said = True
        end_too_large(told["installation"])
        time.sleep(ROUND_SECONDS)


def remove(volume: str) -> None:
    """Remove a volume; the containers that had it may still be going."""
    deadline = time.monotonic() + REMOVE_SECONDS_MAX
    while True:
        status, found = ask("DELETE", f"/volumes/{volume}")
        if status <= OK_MAX or status == NOT_FOUND:
            return
        if status != CONFLICT or time.monotonic() > deadline:
            raise Refused(1, f"the volume {volume} can't be removed: {found}")
        time.sleep(0.1)


def require_protection() -> None:
    """Containers here gain no privileges: Swarm can't demand that of older engines, so their daemon must."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.split() == ["NoNewPrivs:", "1"]:
            return
    raise Refused(NO_PROTECTION, "containers of this machine may gain privileges")


def put_up(command: list[str]) -> None:
    """Run the fence's program."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise Refused(done.returncode, done.stdout.strip() or "the fence can't be put up")


def end_too_large(installation: str) -> None:
    """End the bots whose volumes hold more than their labels allow; whether they start again is decided elsewhere."""
    label = f"wopr.installation={installation}"
    taken = {
        volume["Name"]: volume["UsageData"]["Size"]
        for volume in (ask("GET", "/system/df")[1].get("Volumes") or [])
        if (volume.get("Labels") or {}).get("wopr.installation") == installation and volume.get("UsageData")
    }
    filters = urllib.parse.quote(json.dumps({"label": [label, "wopr.data-bytes"]}))
    for container in ask("GET", f"/containers/json?filters={filters}")[1]:
        limit = int(container["Labels"]["wopr.data-bytes"])
        for mount in container["Mounts"]:
            if taken.get(mount.get("Name"), 0) > limit:
                say(f"{mount['Name']} holds more than {limit} bytes: stopped")
                ask("POST", f"/containers/{container['Id']}/stop?t=10")


def say(text: str, where: TextIO = sys.stdout) -> None:
    """One line of this container's log, which the API reads."""
    where.write(text + "\n")
    where.flush()


def ask(method: str, path: str, body: object = None) -> tuple[int, Any]:
    """One request to this machine's engine."""
    connection = LocalEngine("localhost")
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content.strip() else {}
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
