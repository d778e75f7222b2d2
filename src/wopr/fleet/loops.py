"""What the fleet does by itself."""

from collections.abc import Mapping, Sequence

from wopr.accounts.tenants import TENANTS_CHANNEL
from wopr.billing.prices import load_prices
from wopr.core.loops import Loop
from wopr.core.platform import Platform
from wopr.fleet.bots import BOTS_CHANNEL
from wopr.fleet.build import SharedFleet
from wopr.fleet.farewell import delete_unpaid
from wopr.fleet.images import IMAGES_CHANNEL, needed
from wopr.fleet.probe import Probe
from wopr.fleet.reconcile import Reconciler
from wopr.fleet.rollout import Rollout
from wopr.fleet.runs import charge_runs


def loops(platform: Platform, fleet: SharedFleet) -> Sequence[Loop]:
    """The fleet's lines in the table of loops. Making them starts and opens nothing."""
    worker = _Worker(platform, fleet)
    return (
        Loop(
            name="reconcile_bots",
            period_seconds=1.0,
            why="Bots that should run are started, restarted and adopted; others are stopped; strays are ended.",
            run=worker.reconcile,
            wake=(BOTS_CHANNEL,),
        ),
        Loop(
            name="roll_out_images",
            period_seconds=5.0,
            why="Bots move to the image of their channel, a few at a time; copies of their data go after a while.",
            run=worker.roll_out,
            wake=(IMAGES_CHANNEL,),
        ),
        Loop(
            name="charge_runtime",
            period_seconds=60.0,
            why="Running time of bots is charged by the second, from the stretches that were observed.",
            run=worker.charge,
        ),
        Loop(
            name="probe_bots",
            period_seconds=15.0,
            why="Bots that live but do not answer any more are found and replaced.",
            run=worker.probe,
        ),
        Loop(
            name="delete_unpaid",
            period_seconds=60.0,
            why="Bots of customers whose last announced date has passed are deleted, with what they know.",
            run=lambda: delete_unpaid(platform),
            wake=(TENANTS_CHANNEL,),
        ),
        *_housekeeping(worker),
    )


def _housekeeping(worker: "_Worker") -> Sequence[Loop]:
    return (
        Loop(
            name="prune_bot_images",
            period_seconds=3600.0,
            why="Images that no bot, channel or copy needs are removed from the machines, but for the newest few.",
            run=worker.prune,
        ),
        Loop(
            name="tend_bots",
            period_seconds=15.0,
            why="Logs of bots are rotated before they fill the disk.",
            run=worker.tend,
        ),
        Loop(
            name="guard_disk",
            period_seconds=1.0,
            why="Bots that fill the disk are stopped before the others and the platform find it full.",
            run=worker.guard,
            beside="reconcile_bots",  # which must know why they ended, and whom not to start
        ),
    )


class _Worker:
    """Makes what works when its first pass needs it: the table of loops is also built just to be shown."""

    def __init__(self, platform: Platform, fleet: SharedFleet) -> None:
        self._platform = platform
        self._fleet = fleet
        self._reconciler: Reconciler | None = None
        self._probe: Probe | None = None
        self._rollout: Rollout | None = None

    async def reconcile(self) -> Mapping[str, int]:
        if self._reconciler is None:
            fleet = self._fleet.get()
            self._reconciler = Reconciler(self._platform, fleet.runtime, fleet.http)
            self._fleet.before_close(self._reconciler.close)
        return await self._reconciler.run_pass()

    async def roll_out(self) -> Mapping[str, int]:
        if self._rollout is None:
            self._rollout = Rollout(self._platform, self._fleet.get().runtime.copies)
        return await self._rollout.run_pass()

    async def probe(self) -> Mapping[str, int]:
        if self._probe is None:
            fleet = self._fleet.get()
            self._probe = Probe(self._platform, fleet.runtime, fleet.http)
        return await self._probe.run_pass()

    async def charge(self) -> Mapping[str, int]:
        return {"charged": await charge_runs(self._platform.db, load_prices(self._platform.settings.wopr_prices))}

    async def prune(self) -> Mapping[str, int]:
        async with self._platform.db.begin() as session:
            wanted = await needed(session, self._platform.settings)
        return {"pruned": await self._fleet.get().runtime.prune(wanted)}

    async def tend(self) -> Mapping[str, int]:
        return {"rotated": await self._fleet.get().runtime.tend()}

    async def guard(self) -> Mapping[str, int]:
        return {"stopped": await self._fleet.get().runtime.guard()}
