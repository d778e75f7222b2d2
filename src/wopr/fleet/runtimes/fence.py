"""Puts the firewall of `firewall.py` up on the engine's machine, and keeps it there; without it no bot starts.

The API may be a process of that machine with the right to change its firewall (root on a small installation), or an
unprivileged one, perhaps in a container: then a container of our image, with the host's network and only the right to
administer it, does it and is gone half a second later.
"""

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import structlog

from wopr.fleet.runtimes import firewall
from wopr.fleet.runtimes.bridge import own_container
from wopr.fleet.runtimes.engine import Engine, Output
from wopr.fleet.runtimes.firewall import Policy
from wopr.fleet.runtimes.images import Images
from wopr.fleet.runtimes.protocol import RuntimeFailed

AGE_SECONDS_MAX = 60.0
RUN_SECONDS_MAX = 30.0
FAILURE_SECONDS = 5.0
NET_ADMIN_BIT = 12  # capability(7)
HANGS = "See what holds the lock of iptables on the machine (/run/xtables.lock)."
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

log = structlog.get_logger(__name__)


class FenceFailed(RuntimeFailed):
    """Bots can't be fenced in, so none is started; those that run go on."""

    default_code = "bot_firewall"


@dataclass(frozen=True)
class Means:
    """Who does it: `how` is auto, host, container or off; `image` has iptables."""

    how: str
    image: str


class Fence:
    """The fence of one engine; it is put up again when it is older than a minute, since others may tear it down."""

    def __init__(self, engine: Engine, images: Images, means: Means, policy: Policy) -> None:
        self._engine = engine
        self._images = images
        self._means = means
        self._policy = policy
        self._lock = asyncio.Lock()
        self._up_since = float("-inf")
        self._failed: tuple[float, FenceFailed] | None = None

    async def ensure(self) -> bool:
        """Have the fence up, whoever put it there; True when it was put up now. Raises `FenceFailed`."""
        if self._means.how == "off":
            return False
        async with self._lock:
            now = monotonic()
            if now - self._up_since < AGE_SECONDS_MAX:
                return False
            if self._failed is not None and now - self._failed[0] < FAILURE_SECONDS:
                raise self._failed[1]
            try:
                await self._put_up()
            except FenceFailed as failure:
                self._failed = (monotonic(), failure)
                log.error("bots.fence_failed", error=failure.message, remedy=failure.remedy)
                raise
            self._up_since, self._failed = monotonic(), None
            return True

    def doubt(self) -> None:
        """Put it up anew before the next start: the engine or the network was made anew."""
        self._up_since = float("-inf")

    async def _put_up(self) -> None:
        if self._means.how == "host" or (self._means.how == "auto" and _may_here(self._engine.address)):
            output = await _run_here(self._policy)
            if output.code == 0 or self._means.how == "host" or output.code == firewall.NO_BRIDGE_FILTER:
                return _judge(output)
        try:
            output = await self._run_in_container()
        except FenceFailed:
            raise
        except RuntimeFailed as error:
            raise FenceFailed(
                f"Bots can't be fenced in, so none is started: {error.message}",
                remedy=f"{error.remedy} BOT_FIREWALL_IMAGE must be an image with iptables.",
            ) from error
        return _judge(output)

    async def _run_in_container(self) -> Output:
        own = await own_container(self._engine)
        image = str(own["Image"]) if own is not None else self._means.image
        await self._images.ensure(image)
        program, *arguments = firewall.command(self._policy)
        config = {
            "Image": image,
            "User": "0:0",
            "Entrypoint": [program],
            "Cmd": arguments,
            "Labels": {"wopr.fence": self._policy.network.name},
            "HostConfig": {
                "NetworkMode": "host",
                "CapDrop": ["ALL"],
                "CapAdd": ["NET_ADMIN", "NET_RAW"],  # iptables needs both to talk to the kernel
                "SecurityOpt": ["no-new-privileges:true"],
                "ReadonlyRootfs": True,
                "Tmpfs": {"/run": "rw,noexec,nosuid,size=1m"},  # iptables-legacy keeps its lock there
                "Memory": 64 * 2**20,
                "PidsLimit": 32,
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "100k"}},
            },
        }
        try:
            async with asyncio.timeout(RUN_SECONDS_MAX):
                return await self._engine.run(config)
        except TimeoutError:
            raise FenceFailed("Bots can't be fenced in, so none is started: it hangs.", remedy=HANGS) from None


def _judge(output: Output) -> None:
    if output.code == 0:
        return
    what, remedy = firewall.explain(output.code, output.text)
    raise FenceFailed(f"Bots can't be fenced in, so none is started: {what}.", remedy=remedy)


def _may_here(address: str) -> bool:
    """Whether this process could do it: the right, the tool, and an engine of this machine."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return False
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    allowed = bool(int(effective, 16) >> NET_ADMIN_BIT & 1) and os.geteuid() == 0
    return allowed and address.startswith("unix:") and shutil.which("iptables", path=PATH) is not None


async def _run_here(policy: Policy) -> Output:
    process = await asyncio.create_subprocess_exec(
        *firewall.command(policy),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": PATH, "LANG": "C.UTF-8"},
    )
    try:
        async with asyncio.timeout(RUN_SECONDS_MAX):
            text, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise FenceFailed("Bots can't be fenced in, so none is started: it hangs.", remedy=HANGS) from None
    return Output(process.returncode or 0, text.decode("utf-8", "replace"))
