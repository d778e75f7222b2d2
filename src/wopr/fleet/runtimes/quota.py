"""Ends bots whose data outgrew their size. Docker's own volumes know no limit on most file systems, so it is measured.

The engine counts what each volume holds. Between two looks a bot can write as fast as the disk takes it; what that may
cost, and the file system that refuses at once, are in the decision record about containers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import structlog

from wopr.core.ids import BotId
from wopr.fleet.runtimes.containers import LABEL_BOT, LABEL_DATA, LABEL_INSTALLATION, ours
from wopr.fleet.runtimes.engine import Engine
from wopr.fleet.runtimes.protocol import BotSpec, RuntimeFailed

MIB = 2**20

log = structlog.get_logger(__name__)


class OverQuota(RuntimeFailed):
    """The bot's data is larger than its size allows."""

    default_code = "bot_data_full"


@dataclass(frozen=True)
class Excess:
    """A running container whose bot's data is too large."""

    container: str
    bot_id: BotId
    reason: str


class Quotas:
    """What each bot's data took when it was last measured."""

    def __init__(self, engine: Engine, installation: str) -> None:
        self._engine = engine
        self._installation = installation
        self._taken: Mapping[BotId, int] = {}

    async def measure(self) -> list[Excess]:
        """Measure all volumes; the running containers that must end."""
        volumes = (await self._engine.call("GET", "system/df", query={"type": "volume"}))["Volumes"] or []
        taken: dict[BotId, int] = {}
        for volume in volumes:
            labels = volume.get("Labels") or {}
            size = (volume.get("UsageData") or {}).get("Size", 0)
            if labels.get(LABEL_INSTALLATION) == self._installation and (bot_id := _bot_of(labels)) is not None:
                taken[bot_id] = max(size, taken.get(bot_id, 0))
        self._taken = taken
        found = []
        for container in await self._engine.containers(ours(self._installation)):
            labels = container.get("Labels") or {}
            bot_id, limit = _bot_of(labels), int(labels.get(LABEL_DATA, 0))
            if bot_id is not None and limit and taken.get(bot_id, 0) > limit:
                reason = stopped(taken[bot_id], limit)
                log.warning("bot.data_full", bot_id=str(bot_id), bytes=taken[bot_id], limit=limit)
                found.append(Excess(str(container["Id"]), bot_id, reason))
        return found

    def refuse(self, spec: BotSpec) -> None:
        """Raises `OverQuota` when the bot was too large at the last look."""
        require_fits(self._taken.get(spec.bot_id, 0), spec)


def require_fits(size: int, spec: BotSpec) -> None:
    """Raises `OverQuota` when data of this size, in bytes, is too large for the bot."""
    if size > spec.limits.data_bytes:
        raise OverQuota(
            f"It is not started, as {_explain(size, spec.limits.data_bytes)}.",
            remedy="Choose a larger size in the bot's settings.",
        )


def stopped(size: int, limit: int) -> str:
    """Why a bot with data of this size was ended, as the beginning of a sentence."""
    return f"it was stopped, as {_explain(size, limit)}"


def _bot_of(labels: Mapping[str, str]) -> BotId | None:
    try:
        return BotId(UUID(labels[LABEL_BOT]))
    except (KeyError, ValueError):
        return None


def _explain(size: int, limit: int) -> str:
    return f"its data takes {size // MIB} MiB of the {limit // MIB} MiB that its size allows"
