"""The deliverer's own image follows the release, last: only once that serves and proved itself.

A container can't replace itself: whoever runs `compose up` inside it dies in the middle. So a detached helper, made
from the image that runs now and is known to work, starts the successor, waits until that has asked the registry and the
engine by itself, and brings the old one back when it does not. The engine starts the helper again wherever it is
killed, and it goes on from what it finds; it leaves by removing itself.

A successor is blamed only for what its predecessor, back again, can do: a registry that is away is nobody's fault.

It replaces under the installation's lock, since a release writes `stack.env`, too, and waits for whoever has it.
"""

import asyncio
import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from posixpath import join
from typing import Any

from wopr.delivery.deploy import find_compose
from wopr.delivery.dump_source import expect
from wopr.delivery.errors import HostAway, HostFailed, Locked
from wopr.delivery.hosts import Host
from wopr.delivery.lock import BRIEF, Fence, hold
from wopr.delivery.place import Place
from wopr.delivery.release import read_state

SERVICE = "deliverer"
HELPER = "deliverer-helper"
ALIVE_FILE = "deliver.alive"
FAILED_FILE = "deliver.failed"
ALIVE_SECONDS_MAX = 30.0
ALIVE_LOOK_SECONDS = 0.5
COMPOSE_SECONDS = 120.0
# An image is tried again so long after neither it nor the one before could work.
AGAIN_AFTER = timedelta(minutes=10)
WAIT_SECONDS_MAX = 600.0
WAIT_LOOK_SECONDS = 2.0
NO_SUCH = re.compile(r"no such (container|object)", re.IGNORECASE)
SOCKET = "/var/run/docker.sock"
# As compose.yaml has it for the deliverer itself.
TEMPORARY = ("--tmpfs", "/tmp", "--tmpfs", "/var/lib/wopr", "--workdir", "/tmp", "--env", "HOME=/tmp")  # noqa: S108
FENCE = ("--read-only", *TEMPORARY, "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--no-healthcheck")
VARIABLE = "WOPR_DELIVERER_IMAGE"


@dataclass(frozen=True)
class Sign:
    """A deliverer's sign of life: the machine or container that wrote it, and what it could not ask."""

    host: str
    trouble: str = ""


def sign_of_life(trouble: str = "") -> bytes:
    """What a deliverer writes at each look: when, and who it is, for the one before writes it too until it ends."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"at": at, "host": socket.gethostname(), "trouble": trouble}).encode()


def read_sign(raw: bytes | None) -> Sign | None:
    """A sign of life; None when there is none that can be read. Deliverers before this one told no trouble."""
    try:
        found = json.loads(raw) if raw else {}
        return Sign(str(found["host"]), str(found.get("trouble", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class NotTried(HostFailed):
    """Another deployer had the installation all the while: the image was not tried, and nothing was changed."""


@dataclass(frozen=True)
class Handover:
    """From the deliverer that runs as a container to one with another image."""

    host: Host
    place: Place

    async def begin(self, image: str) -> bool:
        """Start the helper when the deliverer's container has another image than `image`; whether it was started.

        Nothing happens where no such container runs (`wopr deliver` may be a plain process), nor towards an image that
        failed as a deliverer before.
        """
        running = await self._inspect(SERVICE)
        if running is None or not running["State"]["Running"]:
            return False
        if running["Config"]["Image"] == image or await self._failed(image):
            return False
        helper = await self._inspect(HELPER)
        if helper is not None and (helper["State"]["Running"] or helper["State"]["Restarting"]):
            return False  # it is at it
        if helper is not None:  # the engine died before it had started it, or somebody stopped it
            await self.leave()
        await expect(self.host, self._helper_command(running, image), "The helper can't be started")
        return True

    async def finish(self, image: str, before: str = "") -> str:
        """What the helper does: replace, wait for a sign of life, else go back. Why the new one does not work, or
        nothing.

        `before` is the image to go back to. A run that was killed anywhere is finished by the next one with the same
        arguments. NotTried when the lock can't be had; the deliverer that runs then begins again.
        """
        problem = await self._failed(image)
        if not problem:
            problem = await self._tried(image)
            if not problem:
                return ""
            # First this, then back: whoever is killed between them goes back and not forth again.
            await self._remember(image, problem)
        if before and await self._tried(before):
            await self._remember(image, problem, again=datetime.now(UTC) + AGAIN_AFTER)
            return ""
        return problem

    async def leave(self) -> None:
        """Remove the helper, which is whoever calls this in its container: the engine would start it again."""
        await self.host.run(("docker", "rm", "-f", self.place.container(HELPER)))

    async def _tried(self, image: str) -> str:
        """See to it that the deliverer runs with this image, and wait for its first look; why it does not work."""
        try:
            if not await self.runs(image):
                await self._up(image)
        except NotTried:
            raise
        except HostFailed as error:
            if error.says_nothing:
                raise  # the engine starts the helper again, until there is room, say
            return error.message
        away_until = time.monotonic() + WAIT_SECONDS_MAX
        until = time.monotonic() + ALIVE_SECONDS_MAX
        trouble = f"no look at the registry within {ALIVE_SECONDS_MAX:.0f} s"
        while time.monotonic() < until:
            try:
                became = await self._became()
            except HostAway:  # an engine that restarts says nothing of what it runs
                until = min(away_until, time.monotonic() + ALIVE_SECONDS_MAX)
                became = None
            if isinstance(became, str):
                return became
            if became is not None:
                if not became.trouble:
                    return ""
                trouble = became.trouble  # it may pass
            await asyncio.sleep(ALIVE_LOOK_SECONDS)
        return trouble

    async def _became(self) -> Sign | str | None:
        """What became of the one that was started: its sign, or how it ended; None while there is neither.

        It is started again and again, so the count tells.
        """
        successor = await self._inspect(SERVICE)
        if successor is None:
            return "its container is gone"
        sign = read_sign(await self.host.read(join(self.place.dir, ALIVE_FILE)))
        if sign and sign.host == str(successor["Config"]["Hostname"]):
            return sign
        if successor["RestartCount"] or successor["State"]["Status"] in ("exited", "dead"):
            return f"it ended at its start (exit code {successor['State']['ExitCode']})"
        return None

    async def runs(self, image: str) -> bool:
        """Whether the deliverer runs with this image."""
        found = await self._inspect(SERVICE)
        return found is not None and bool(found["State"]["Running"]) and found["Config"]["Image"] == image

    async def _up(self, image: str) -> None:
        """Start the deliverer with this image once nobody else changes the installation, and the engine answers."""
        until = time.monotonic() + WAIT_SECONDS_MAX
        while True:
            try:
                async with hold(self.host, self.place, BRIEF) as fence:
                    return await self._started(fence, image)
            except (Locked, HostAway) as error:
                if time.monotonic() >= until:
                    if isinstance(error, Locked):
                        raise NotTried(error.message, remedy=error.remedy) from error
                    raise
                await asyncio.sleep(min(error.retry_after_seconds or WAIT_LOOK_SECONDS, WAIT_LOOK_SECONDS))

    async def _started(self, fence: Fence, image: str) -> None:
        """Start the deliverer with this image, by the compose file of the release that serves."""
        raw = (await self.host.read(self.place.stack_env) or b"").decode()
        kept = [line for line in raw.splitlines() if not line.startswith(f"{VARIABLE}=")]
        text = "\n".join([*kept, f"{VARIABLE}={image}"]) + "\n"
        await fence.write(self.place.stack_env, text.encode())
        state = await read_state(self.host, self.place)
        if state.active is None:
            raise HostFailed("Nothing serves, so there is no compose file to start a deliverer from.")
        file = self.place.snapshot(state.active.release, "compose.yaml")
        compose = await find_compose(self.host)
        up = compose.call(self.place, file, "up", "-d", "--no-deps", "--force-recreate", SERVICE)
        await expect(fence, up, "The deliverer can't be started", timeout=COMPOSE_SECONDS)

    def _helper_command(self, running: Mapping[str, Any], successor: str) -> tuple[str, ...]:
        """A container beside ours, with its folder, engine and rights, that outlives us and then removes itself."""
        folder = self.place.dir
        user = ("--user", str(running["Config"]["User"] or "0:0"))
        groups = [word for group in running["HostConfig"]["GroupAdd"] or () for word in ("--group-add", str(group))]
        mounts = ("-v", f"{folder}:{folder}", "-v", f"{SOCKET}:{SOCKET}")
        label = ("--label", f"wopr.name={self.place.name}")
        options = ("-d", "--restart", "unless-stopped", "--name", self.place.container(HELPER), *label)
        before = str(running["Config"]["Image"])
        words = ("deliver", "--dir", folder, "--name", self.place.name, "--hand-over", successor, "--hand-back", before)
        rights = (*FENCE, *user, *groups)
        return ("docker", "run", *options, *rights, "-e", f"WOPR_HOME={folder}", *mounts, str(running["Image"]), *words)

    async def _inspect(self, service: str) -> dict[str, Any] | None:
        """A container's description; None when there is no such one. HostAway when the engine does not say."""
        name = self.place.container(service)
        done = await self.host.run(("docker", "container", "inspect", name))
        if not done.ok:
            if NO_SUCH.search(done.complaint):
                return None
            raise HostAway(f"Docker does not say whether {name} runs: {done.complaint}", remedy="docker info")
        found: list[dict[str, Any]] = json.loads(done.out)
        return found[0] if found else None

    async def _remember(self, image: str, problem: str, again: datetime | None = None) -> None:
        """An image that failed as a deliverer, for ever or until `again`."""
        record = {"image": image, "why": problem, **({"again": again.isoformat(timespec="seconds")} if again else {})}
        await self.host.write(join(self.place.dir, FAILED_FILE), json.dumps(record).encode())

    async def _failed(self, image: str) -> str:
        """Why this image failed as a deliverer before; empty when it did not, or may be tried again."""
        raw = await self.host.read(join(self.place.dir, FAILED_FILE))
        try:
            record = json.loads(raw) if raw else {}
            may = datetime.fromisoformat(record["again"]) if "again" in record else None
            failed = record["image"] == image and (may is None or datetime.now(UTC) < may)
            return str(record["why"]) if failed else ""
        except (ValueError, KeyError, TypeError):
            return ""
