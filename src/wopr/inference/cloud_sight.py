"""Which machines the cloud has for us, as the ladder of repair may believe it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from wopr.cloud.compute import CloudError, Compute, Machine
from wopr.core.errors import NotConfigured, WoprError
from wopr.core.platform import Platform
from wopr.inference.identity import ensure_identity
from wopr.inference.nodes import Node

# What the cloud said is believed for so long: it answers 5,000 requests an hour.
CLOUD_SECONDS = 2.0

log = structlog.get_logger(__name__)


@dataclass
class CloudSight:
    """Asks the cloud, and remembers what it said for a moment."""

    platform: Platform
    cloud: Callable[[], Compute]
    refused: str = ""
    """Why it will not tell before somebody does something: no token, or one that may not."""
    _seen: Mapping[str, Machine] | None = None
    _asked_at: float = float("-inf")
    _asked_for: frozenset[str] = frozenset()
    _rests_until: float = float("-inf")

    async def machines(self, ailing: Sequence[Node]) -> Mapping[str, Machine] | None:
        """The machines of these nodes and all that carry our tag; None: the cloud is not asked, or away."""
        if not any(node.provider for node in ailing):
            return None
        if self.rests:
            return None
        now, known = self.platform.clock.monotonic(), [node.making.machine_id for node in ailing if _is_made(node)]
        wanted = frozenset(machine_id for machine_id in known if machine_id is not None)
        if now - self._asked_at >= CLOUD_SECONDS or not wanted <= self._asked_for:
            self._seen, self._asked_at, self._asked_for = await self._listed(wanted), now, wanted
        return self._seen

    @property
    def rests(self) -> bool:
        """Whether the cloud asked not to be asked yet."""
        return self.platform.clock.monotonic() < self._rests_until

    def rest(self, error: WoprError) -> None:
        """Ask the cloud for nothing before it said that it may be asked again."""
        self._rests_until = self.platform.clock.monotonic() + (error.retry_after_seconds or 0.0)

    def forget(self) -> None:
        """Believe nothing that the cloud said before."""
        self._asked_at = float("-inf")

    async def _listed(self, wanted: frozenset[str]) -> Mapping[str, Machine] | None:
        try:
            async with self.platform.db.begin() as session:
                identity = await ensure_identity(session, self.platform.settings)
            cloud = self.cloud()
            listed = {machine.id: machine for machine in await cloud.tagged(identity.tag)}
            # A list may lag behind, and a tag be taken off; only the machine's own address says that it is gone.
            found = [await cloud.get(machine_id) for machine_id in sorted(wanted - listed.keys())]
            self.refused = ""
            return listed | {machine.id: machine for machine in found if machine is not None}
        except (CloudError, NotConfigured) as error:
            log.warning("repair.cloud_away", error=error.message)
            may_pass = isinstance(error, CloudError) and error.retry
            self.refused = "" if may_pass else f"{error.message} {error.remedy}".strip()
            self.rest(error)
            return None


def _is_made(node: Node) -> bool:
    """Whether its machine is the ladder's: before that the loop that makes nodes orders it, and gives back the last."""
    return node.provider is not None and node.provision_stage == "done"
