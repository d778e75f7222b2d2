"""Looks after one machine of a Swarm: the fence around its bots, and bots whose data grew too large.

It runs in a container on every machine, given to Python as text (`python3 -c`, with its parts), so that it is always
the one that the API knows, whatever image it runs in: it imports nothing but the standard library. A manager can do
none of this from afar, which is why it must have the machine's own engine and the right to administer the network.

With arguments it does one thing and ends: `remove VOLUME` as soon as nothing uses it, `clear INSTALLATION BOT` removes
all that a bot kept, `pull INSTALLATION IMAGE` has an image here, `copy JSON` copies a bot's volume or puts the copy
back, `prune INSTALLATION JSON` removes its images but for those that are needed, and `weigh PREFIX ENOUGH` says what
volumes take.
"""

import json
import os
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any  # the engine's JSON

from wopr.fleet.runtimes.node_engine import CONFLICT, NOT_FOUND, NOT_MODIFIED, OK_MAX, Refused, ask, asking, say
from wopr.fleet.runtimes.node_guard import Guard
from wopr.fleet.runtimes.scales import VOLUMES, weigh

VARIABLE = "WOPR_NODE"
AUTH = "/run/registry-auth"
FENCE_SECONDS = 20.0
ROUND_SECONDS = 1.0
REMOVE_SECONDS_MAX = 60.0
PULL_SILENCE_SECONDS_MAX = 300.0
COPY_SECONDS_MAX = 1800.0
POLL_SECONDS = 0.1
# Of images that nobody needs the newest stay: an operator may go back to one. The rest goes a few at a time.
SPARE_IMAGES, PRUNED_AT_ONCE_MAX = 5, 10
# What stands before an installation's name in the tag by which it holds an image.
MARK = "kept-by-"
# Above those of the fence's own script.
NO_PROTECTION, NOT_PULLED, COPY_GONE, NO_COPIER = 21, 22, 23, 24
# What it says of itself.
UP = "up"


def main(arguments: list[str]) -> int:
    """Do what was asked; the exit code."""
    try:
        if arguments[:1] == ["copy"]:
            copy(json.loads(arguments[1]))
        elif arguments:
            ERRANDS[arguments[0]](*arguments[1:])
        else:
            watch(json.loads(os.environ[VARIABLE]))
    except Refused as refusal:
        say(str(refusal), sys.stderr)
        return refusal.code
    return 0


def watch(told: dict[str, Any]) -> None:
    """Keep everything in place; ends only by an error."""
    require_protection()
    said, fenced_at = False, float("-inf")
    guard = Guard(told["installation"], told["reserve"])
    while True:
        if told["fence"] and time.monotonic() - fenced_at >= FENCE_SECONDS:
            put_up(told["fence"])
            fenced_at = time.monotonic()
        if not said:
            say(UP)
            said = True
        guard.look()
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
        time.sleep(POLL_SECONDS)


def clear(installation: str, bot: str) -> None:
    """Remove everything that a bot kept here, copies included, and what may just be copying it."""
    labels = [f"wopr.installation={installation}", f"wopr.bot={bot}"]
    copiers = urllib.parse.quote(json.dumps({"label": [*labels, "wopr.copying"]}))
    for container in ask("GET", f"/containers/json?all=true&filters={copiers}")[1]:
        ask("DELETE", f"/containers/{container['Id']}?force=true&v=true")
    for volume in volumes(labels):
        remove(volume)


def pull(installation: str, image: str) -> None:
    """Have an image here, held by the installation."""
    status, _ = ask("GET", f"/images/{urllib.parse.quote(image)}/json")
    if status > OK_MAX:
        fetch(image)
    hold(installation, image)


def fetch(image: str) -> None:
    """Pull an image; what a registry must be shown lies in the file of a secret."""
    if image.startswith("sha256:"):
        raise Refused(NOT_PULLED, "no such image")  # its own name for it says nothing of a registry
    secret = Path(AUTH)
    headers = {"X-Registry-Auth": secret.read_text(encoding="ascii")} if secret.exists() else {}
    path = f"/images/create?fromImage={urllib.parse.quote(image, safe='')}"
    told: dict[str, Any] = {}
    with asking("POST", path, headers=headers, seconds=PULL_SILENCE_SECONDS_MAX) as answer:
        # Most refusals come in the middle of an answer that began well. How far it is comes in thousands of lines.
        for line in answer:
            told = json.loads(line) if line.strip() and "error" not in told else told
        failed = answer.status > OK_MAX or "error" in told
    if failed:
        raise Refused(NOT_PULLED, " ".join(str(told.get("error") or told.get("message")).split()))


def hold(installation: str, image: str) -> None:
    """Mark an image as one that the installation needs; one that is not here needs no mark."""
    repository, _, tag = mark_of(installation, image).rpartition(":")
    if tag:
        query = urllib.parse.urlencode({"repo": repository, "tag": tag})
        ask("POST", f"/images/{urllib.parse.quote(image)}/tag?{query}")


def prune(installation: str, needed: str) -> None:
    """Let go of the installation's old images but for `needed`, a list in JSON. What a container has stays."""
    wanted = json.loads(needed)
    for image in wanted:
        hold(installation, image)  # a machine of a Swarm fetches the image of a new bot by itself
    for mark in unneeded(ask("GET", "/images/json")[1], wanted, installation):
        status, found = ask("DELETE", f"/images/{urllib.parse.quote(mark, safe='')}")
        if status > OK_MAX and status not in (NOT_FOUND, CONFLICT):
            raise Refused(1, f"the image {mark} can't be removed: {found}")


def mark_of(installation: str, image: str) -> str:
    """The tag by which an installation holds an image that is named by its digest; empty for one that is not.

    It is of the image's own repository: with the last such tag, an engine removes the digest and the image, and not
    before, so that installations which share an engine take nothing from each other.
    """
    name, _, digest = image.partition("@sha256:")
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}:{MARK}{installation}.{digest[:12]}" if name and digest else ""


def is_held(image: dict[str, Any]) -> bool:
    """Whether an installation holds this image of an engine."""
    return any(f":{MARK}" in tag for tag in image.get("RepoTags") or [])


def unneeded(listed: list[dict[str, Any]], needed: list[str], installation: str) -> list[str]:
    """The marks of an engine's images that the installation no longer needs, oldest first; only so many at once.

    What somebody gave a tag is somebody's own.
    """
    wanted = {image.rpartition("@")[2] for image in needed}
    found = []
    for image in sorted(listed, key=lambda image: int(image["Created"]), reverse=True):
        tags = [tag for tag in image.get("RepoTags") or [] if not tag.startswith("<none>")]
        marks = [tag for tag in tags if f":{MARK}{installation}." in tag]
        names = {image["Id"], *(digest.rpartition("@")[2] for digest in image.get("RepoDigests") or [])}
        if marks and all(f":{MARK}" in tag for tag in tags) and not names & wanted:
            found.append(marks)
    old = [mark for marks in found[SPARE_IMAGES:] for mark in marks]
    return old[::-1][:PRUNED_AT_ONCE_MAX]


def copy(told: dict[str, Any]) -> None:
    """Have a copier run to its end, once, whoever started it (see `volumes`, which does the same on one machine)."""
    if told["back"] and ask("GET", f"/volumes/{told['copy']}")[0] == NOT_FOUND:
        # Without this, the engine would make an empty one, and the bot's data would be replaced by nothing.
        raise Refused(COPY_GONE, f"the copy {told['copy']} is gone")
    mine = (told["volume"], told["copy"])
    labels = [f"{name}={value}" for name, value in told["labels"].items()]
    for other in [name for name in volumes(labels) if name not in mine and not told["back"]]:
        remove(other)
    for name in mine:
        ask("POST", "/volumes/create", {"Name": name, "Labels": told["labels"]})
    present = inspect(told["name"])
    if present is not None and present["Config"]["Labels"] != told["container"]["Labels"]:
        ask("DELETE", f"/containers/{told['name']}?force=true&v=true")
        present = None
    if present is None:
        status, found = ask("POST", f"/containers/create?name={told['name']}", told["container"])
        if status > OK_MAX:
            raise Refused(NO_COPIER, str(found.get("message", found)))
    # One that has ended does it anew: who knows when that was.
    status, found = ask("POST", f"/containers/{told['name']}/start")
    if status > OK_MAX and status != NOT_MODIFIED:
        ask("DELETE", f"/containers/{told['name']}?force=true&v=true")
        raise Refused(NO_COPIER, str(found.get("message", found)))
    code = end_of(told["name"])
    ask("DELETE", f"/containers/{told['name']}?force=true&v=true")
    if code != 0:
        raise Refused(1, f"its copier ended with {code}")


def end_of(container: str) -> int:
    """Wait for a container's end; its exit code."""
    deadline = time.monotonic() + COPY_SECONDS_MAX
    while time.monotonic() < deadline:
        present = inspect(container)
        if present is None:
            raise Refused(1, "its copier was removed while it copied")
        if present["State"]["Status"] in ("exited", "dead"):
            return int(present["State"]["ExitCode"])
        time.sleep(POLL_SECONDS)
    ask("DELETE", f"/containers/{container}?force=true&v=true")
    raise Refused(1, f"its copier took longer than {COPY_SECONDS_MAX / 60:.0f} minutes")


def inspect(container: str) -> dict[str, Any] | None:
    """A container; None when there is none of that name."""
    status, found = ask("GET", f"/containers/{container}/json")
    return found if status <= OK_MAX else None


def volumes(labels: list[str]) -> list[str]:
    """Names of the volumes with these labels."""
    filters = urllib.parse.quote(json.dumps({"label": labels}))
    return [volume["Name"] for volume in ask("GET", f"/volumes?filters={filters}")[1]["Volumes"] or []]


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


def tell_weight(prefix: str, enough: str) -> None:
    """Say in one line what the volumes of this machine take."""
    say(json.dumps(weigh(VOLUMES, prefix, int(enough))))


ERRANDS: dict[str, Callable[..., None]] = {
    "remove": remove,
    "clear": clear,
    "pull": pull,
    "prune": prune,
    "weigh": tell_weight,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
