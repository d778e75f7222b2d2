"""Ends bots whose data outgrew their size, or take what little the disk has left. Docker's own volumes know no limit on
most file systems, so they are weighed: every minute, and at once when the disk lost much since the last time.

What a bot can take until then, and the file systems that refuse at once, are in the decision record about disks.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from uuid import UUID

import structlog

from wopr.core.ids import BotId
from wopr.fleet.runtimes import agents, node_guard, scales
from wopr.fleet.runtimes.containers import LABEL_BOT, LABEL_DATA, ours, volume_name
from wopr.fleet.runtimes.engine import UNIX, Engine, Json
from wopr.fleet.runtimes.protocol import BotSpec, RuntimeFailed
from wopr.fleet.runtimes.scales import Room, Watch

MIB = 2**20

log = structlog.get_logger(__name__)


class OverQuota(RuntimeFailed):
    """The bot's data is larger than its size allows."""

    default_code = "bot_data_full"


class DiskShort(RuntimeFailed):
    """The machine's disk is nearly full, and it was this bot that wrote most."""

    default_code = "bot_disk_short"


class NotWeighed(RuntimeFailed):
    """Nobody knows what bots keep."""

    default_code = "bot_data_unknown"


@dataclass(frozen=True)
class Excess:
    """Data that takes too many bytes; `limit` is 0 when its bot may have so many, but its machine has no room."""

    size: int
    limit: int

    @property
    def reason(self) -> str:
        """Why the bot was ended, as the beginning of a sentence."""
        return f"it was stopped, as {_explain(self.size, self.limit)}"


@dataclass(frozen=True)
class Culprit:
    """A running container whose bot's data takes too much."""

    container: str
    bot_id: BotId
    excess: Excess


class Quotas:
    """What each bot's data took when it was last weighed."""

    def __init__(self, engine: Engine, installation: str, reserve: int) -> None:
        self._engine = engine
        self._installation = installation
        self._watch = Watch(reserve)
        self._root = ""
        self._taken: Mapping[BotId, int] | None = None
        self._greedy: set[BotId] = set()

    async def look(self) -> list[Culprit]:
        """Weigh everything if it is time to; the running containers that must end. Raises `RuntimeFailed`."""
        if not self._root:
            self._root = str((await self._engine.call("GET", "info"))["DockerRootDir"])
        room, now = self._room(), monotonic()
        is_short = room is not None and room.is_short(self._watch.percent)
        if not is_short:
            self._greedy.clear()
        if not self._watch.is_due(room, now):
            return []
        listed = await self._engine.containers(ours(self._installation), stopped=True)
        bots = [(bot, one) for one in listed if (bot := _limited(one)) is not None]
        running = {bot: one for bot, one in bots if one["State"] == "running"}
        # Of those that are stopped, too: whether they may start depends on it.
        before, self._taken = self._taken, await self._weigh(bots) if bots else {}
        found = [
            Culprit(str(one["Id"]), bot, Excess(size, limit))
            for bot, one in running.items()
            if (size := self._taken.get(bot, 0)) > (limit := int(one["Labels"][LABEL_DATA]))
        ]
        if is_short and not found:
            found = self._greediest(running, before)
        self._watch.weighed(room, now)
        for culprit in found:
            log.warning("bot.data_full", bot_id=str(culprit.bot_id), reason=culprit.excess.reason)
        return found

    def refuse(self, spec: BotSpec) -> None:
        """Raises `OverQuota` or `DiskShort` when the bot took too much at the last look."""
        size = (self._taken or {}).get(spec.bot_id, 0)
        require_fits(Excess(size, 0 if spec.bot_id in self._greedy else spec.limits.data_bytes), spec)

    def _room(self) -> Room | None:
        if not self._engine.address.startswith(UNIX):
            return None  # it is another machine's
        # Where the engine's folder is not to be seen we are a container of it, and our root is on the same disk.
        return scales.room_of(self._root if Path(self._root).exists() else "/")

    async def _weigh(self, bots: Sequence[tuple[BotId, Json]]) -> dict[BotId, int]:
        for left in await self._engine.containers({scales.LABEL: self._installation}, stopped=True):
            await self._engine.remove(left["Id"])
        image = str(max((one for _, one in bots), key=lambda one: int(one["Created"]))["ImageID"])
        enough = 2 * max(int(one["Labels"][LABEL_DATA]) for _, one in bots)
        command = ["python3", "-c", agents.SCRIPT, "weigh", node_guard.BOTS, str(enough)]
        output = await self._engine.run(scales.describe(image, self._root, self._installation, command))
        if output.code != 0:
            raise NotWeighed(
                f"What bots keep can't be weighed: {output.text[-500:].strip()}",
                remedy="See the log of the engine. A bot that takes too much of the disk is not stopped meanwhile.",
            )
        found: Mapping[str, int] = json.loads(output.text)
        taken = {bot: found.get(volume_name(bot), 0) for bot, _ in bots}
        for bot, one in bots:
            taken[bot] += found.get(str(one["Id"]), 0)
        return taken

    def _greediest(self, running: Mapping[BotId, Json], before: Mapping[BotId, int] | None) -> list[Culprit]:
        sizes = {str(bot): size for bot, size in (self._taken or {}).items() if bot in running}
        known = {str(bot): size for bot, size in before.items()} if before is not None else None
        most = scales.greediest(sizes, known)
        if not most:
            return []
        bot = BotId(UUID(most))
        self._greedy.add(bot)
        return [Culprit(str(running[bot]["Id"]), bot, Excess(sizes[most], 0))]


def require_fits(excess: Excess | None, spec: BotSpec) -> None:
    """Raises `OverQuota` or `DiskShort` when data of this size can't be the bot's."""
    if excess is None:
        return
    if excess.limit == 0:
        raise DiskShort(
            f"It is not started, as {_explain(excess.size, 0)}.",
            remedy="Make room on the machine's disk, or give it a larger one. Then it starts by itself.",
        )
    if excess.size > spec.limits.data_bytes:
        raise OverQuota(
            f"It is not started, as {_explain(excess.size, spec.limits.data_bytes)}.",
            remedy="Choose a larger size in the bot's settings.",
        )


def _limited(listed: Json) -> BotId | None:
    """The bot of a container that has a limit; None for others, such as one that copies."""
    labels = listed.get("Labels") or {}
    try:
        return BotId(UUID(labels[LABEL_BOT])) if int(labels[LABEL_DATA]) else None
    except (KeyError, ValueError):
        return None


def _explain(size: int, limit: int) -> str:
    if limit == 0:
        return f"the disk of its machine is nearly full, and it wrote most: its data takes {size // MIB} MiB"
    return f"its data takes {size // MIB} MiB of the {limit // MIB} MiB that its size allows"
