"""Settles what was used: in batches, while the lease of each customer is rolled, and after a crash from the log.

One transaction a customer and roll: usage rows, the posting, the old lease given back and the new one taken. It runs in
the background; a request waits for it only when its customer has no credit in this process yet.
"""

import asyncio
import contextlib
import functools
from collections.abc import Iterable, Sequence

import structlog

from wopr.billing import codes
from wopr.billing.leases import Lease, LeaseRoll, lease_rolls
from wopr.billing.ledger import balance
from wopr.billing.usage import UsageRecord
from wopr.core.errors import WoprError
from wopr.core.ids import TenantId
from wopr.core.money import Nanos
from wopr.core.platform import Platform
from wopr.inference.gateway import credit, meters, recovery
from wopr.inference.gateway.credit import OpenRoll, Purse, RollPlan, Used
from wopr.inference.gateway.errors import DATABASE_ERRORS
from wopr.inference.gateway.lines import pack_lease, pack_usage
from wopr.inference.gateway.wal import Wal

ROLLS_AT_ONCE = 4
CUSTOMERS_AT_ONCE = 100
ROLLS_FOR_A_HOLD = 5
CLOSE_SECONDS = 5.0
WAL_FOLDER = "wal"
MAKE_ROOM = "Make room under WOPR_HOME/wal."

log = structlog.get_logger(__name__)


class Settler:
    """The purses of this process, its log, and the task that keeps them settled."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._now = platform.clock.monotonic
        self._purses: dict[TenantId, Purse] = {}
        self._wal = Wal(platform.settings.wopr_home / WAL_FOLDER, self._leases)
        self._dirty = False
        self._wake = asyncio.Event()
        self._rolls: dict[int, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._sync: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Open the log and begin to settle."""
        self._wal.open()
        self._task = asyncio.create_task(self._run(), name="gateway settle")

    async def stop(self) -> None:
        """Settle everything and give every lease back; what can't be settled now stays in the log."""
        deadline = self._now() + CLOSE_SECONDS
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._rolls:
            await asyncio.wait(self._rolls.values(), timeout=CLOSE_SECONDS)
        for purse in list(self._purses.values()):
            if (purse.records or purse.lease_id) and self._now() < deadline:
                await self._roll([(purse, RollPlan(Nanos(0), urgent=True))])
        if self._sync is not None:
            await asyncio.wait([self._sync])
        self._wal.close()

    def purse(self, tenant_id: TenantId) -> Purse:
        """The purse of a tenant."""
        purse = self._purses.get(tenant_id)
        if purse is None:
            purse = self._purses[tenant_id] = Purse(tenant_id, used_at=self._now())
            self._wake.set()
        return purse

    async def hold(self, purse: Purse, want: int, least: int) -> int:
        """Hold `want` for a request, or what is left when that is at least `least`; the amount.

        Waits for the database only when the lease does not suffice. Raises PaymentRequired when the account is empty
        and TooManyRequests when running requests hold what is there. Follow it with `charge` or `release`.
        """
        now = self._now()
        purse.running += 1
        try:
            if purse.take(want, now):
                return want
            for _ in range(ROLLS_FOR_A_HOLD):
                if now < purse.short_until and purse.total < want:
                    break
                await self._roll_soon(purse, want)
                now = self._now()
                if purse.take(want, now):
                    return want
                if now < purse.short_until or purse.failing:
                    break  # the ledger had no more; otherwise others were quicker, and there is more
            left = purse.free(now)
            if 0 < least <= left and purse.take(min(left, want), now):
                return min(left, want)
            raise credit.refusal(purse, least)
        except BaseException:
            purse.running -= 1
            raise

    async def extend(self, purse: Purse, by: int) -> bool:
        """Hold more for a request that is running."""
        if purse.take(by, self._now()):
            return True
        if self._now() >= purse.short_until:
            await self._roll_soon(purse, by)
        return purse.take(by, self._now())

    def release(self, purse: Purse, held: int) -> None:
        """A request ended without a charge."""
        purse.held -= held
        purse.running -= 1
        purse.used_at = self._now()

    def charge(self, purse: Purse, held: int, record: UsageRecord) -> None:
        """A request ended: write it to the log, then count it as used until it is settled."""
        segment = None
        try:
            segment = self._wal.append(pack_usage(record))
            self._dirty = True
        except (OSError, ValueError) as error:
            log.error("gateway.wal.failed", error=str(error), remedy=MAKE_ROOM)
        purse.owed += record.cost
        purse.records.append(Used(record, segment))
        self.release(purse, held)
        if len(purse.records) == credit.SETTLE_RECORDS:
            self._wake.set()

    def backlog(self) -> tuple[int, int]:
        """Records that wait for their settlement, and bytes in the log."""
        return sum(len(purse.records) for purse in self._purses.values()), self._wal.size()

    async def recover(self) -> int:
        """Settle what dead processes left; how many lines there were. Files that can't be settled now stay."""
        return await recovery.recover(self._platform, self._platform.settings.wopr_home / WAL_FOLDER)

    async def _run(self) -> None:
        while True:
            timeout = credit.SETTLE_SECONDS if self._purses else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            self._wake.clear()
            now = self._now()
            plans = [(purse, plan) for purse in self._purses.values() if (plan := credit.plan_roll(purse, now))]
            plans.sort(key=lambda pair: not pair[1].urgent)
            for part, batch in _batches(plans).items():
                if part not in self._rolls:
                    task = asyncio.create_task(self._roll(batch), name="gateway roll")
                    self._rolls[part] = task
                    task.add_done_callback(functools.partial(self._rolled, part, len(plans) > len(batch)))
            self._flush()
            for purse in [each for each in self._purses.values() if credit.is_spent(each, now)]:
                del self._purses[purse.tenant_id]

    def _rolled(self, part: int, more: bool, task: "asyncio.Task[None]") -> None:
        del self._rolls[part]
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            meters.SETTLE_FAILURES.inc()
            log.error("gateway.settle.broke", exc_info=failure)
        if more or any(purse.waiters for purse in self._purses.values()):
            self._wake.set()

    async def _roll(self, batch: Sequence[tuple[Purse, RollPlan]]) -> None:
        rolls = [credit.begin_roll(purse, plan) for purse, plan in batch]
        try:
            await self._try_roll(rolls)
        except (*DATABASE_ERRORS, WoprError) as error:
            meters.SETTLE_FAILURES.inc()
            log.warning("gateway.settle.failed", error=f"{type(error).__name__}: {error}", customers=len(rolls))
        finally:
            for roll in rolls:
                credit.end_roll(roll, self._now(), together=len(rolls) > 1)

    async def _try_roll(self, rolls: Sequence[OpenRoll]) -> None:
        try:
            await self._roll_in_database(rolls)
        except DATABASE_ERRORS as error:
            if len(rolls) == 1 and rolls[0].settling and recovery.is_refusal(error):
                await self._sift(rolls[0])
            raise

    async def _sift(self, roll: OpenRoll) -> None:
        """One of a customer's records is refused: settle the others without the lease, and set that one aside."""
        refused = await recovery.sift(self._platform, [used.record for used in roll.settling])
        self._wal.set_aside([pack_usage(record) for record in refused])
        roll.purse.owed -= roll.cost
        settled, roll.settling = roll.settling, []
        for used in settled:
            self._forget(used)

    async def _roll_in_database(self, rolls: Sequence[OpenRoll]) -> None:
        asked = [
            LeaseRoll(
                roll.purse.tenant_id,
                roll.purse.lease_id,
                roll.want,
                Nanos(1),
                [used.record for used in roll.settling],
                credit.LEASE_SECONDS,
            )
            for roll in rolls
        ]
        totals: dict[TenantId, int] = {}
        async with self._platform.db.begin() as session:
            leases = await lease_rolls(session, asked, self._platform.clock.now())
            for each in asked:
                lease = leases[each.tenant_id]
                if (lease.amount if lease is not None else 0) < each.want:
                    funds = await balance(session, each.tenant_id)
                    totals[each.tenant_id] = funds.available + funds.held
        for roll in rolls:
            tenant = roll.purse.tenant_id
            self._settled(roll, leases[tenant], totals.get(tenant))

    def _settled(self, roll: OpenRoll, lease: Lease | None, total: int | None) -> None:
        credit.finish_roll(roll, lease, total, self._now())
        if lease is not None:
            try:
                self._wal.note(pack_lease(roll.purse.tenant_id, lease.id))
            except (OSError, ValueError) as error:  # the ledger has the lease; should we die, it expires
                log.error("gateway.wal.failed", error=str(error), remedy=MAKE_ROOM)
        for used in roll.settling:
            self._forget(used)
        meters.SETTLED.inc(len(roll.settling))

    def _forget(self, used: Used) -> None:
        if used.segment is not None:
            try:
                self._wal.settled(used.segment)
            except OSError as error:  # the file stays and is settled once more, which charges nothing
                log.error("gateway.wal.failed", error=str(error), remedy=MAKE_ROOM)

    async def _roll_soon(self, purse: Purse, wanted: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        purse.waiters.append(future)
        purse.wanted += wanted
        self._wake.set()
        await future

    def _flush(self) -> None:
        if self._dirty and (self._sync is None or self._sync.done()):
            self._dirty = False
            self._sync = asyncio.get_running_loop().run_in_executor(None, self._wal.sync)

    def _leases(self) -> Iterable[bytes]:
        return [pack_lease(purse.tenant_id, purse.lease_id) for purse in self._purses.values() if purse.lease_id]


def _batches(plans: Sequence[tuple[Purse, RollPlan]]) -> dict[int, list[tuple[Purse, RollPlan]]]:
    """What may be rolled at once: customers in different parts never wait for each other in the database."""
    batches: dict[int, list[tuple[Purse, RollPlan]]] = {}
    for purse, plan in plans:
        batch = batches.setdefault(codes.shard(purse.tenant_id) % ROLLS_AT_ONCE, [])
        alone = purse.alone or (bool(batch) and batch[0][0].alone)
        if not (batch and alone) and len(batch) < CUSTOMERS_AT_ONCE:
            batch.append((purse, plan))
    return batches
