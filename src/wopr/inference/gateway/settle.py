"""Settles what was used: in batches, while the lease of each customer is rolled, and after a crash from the log.

One transaction a customer and roll: usage rows, the posting, the old lease given back and the new one taken. It runs in
the background; a request waits for it only when its customer has no credit in this process yet.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from wopr.billing.leases import Lease, LeaseRoll, lease_roll
from wopr.billing.ledger import balance
from wopr.billing.usage import UsageRecord
from wopr.core.errors import WoprError
from wopr.core.ids import TenantId
from wopr.core.money import Nanos
from wopr.core.platform import Platform
from wopr.inference.gateway import credit, meters, wal
from wopr.inference.gateway.credit import Purse, RollPlan, Used
from wopr.inference.gateway.errors import DATABASE_ERRORS
from wopr.inference.gateway.wal import Wal

ROLLS_AT_ONCE = 4
FAILED_RETRY_SECONDS = 0.5
CLOSE_SECONDS = 5.0
RECOVER_RECORDS = 1_000
WAL_FOLDER = "wal"

log = structlog.get_logger(__name__)


class Settler:
    """The purses of this process, its log, and the task that keeps them settled."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._now = platform.clock.monotonic
        self._purses: dict[TenantId, Purse] = {}
        self._wal = Wal(platform.settings.wopr_home / WAL_FOLDER, self._leases)
        self._dirty = False
        self._more = False  # purses wait for a free place among the rolls
        self._wake = asyncio.Event()
        self._rolls: set[asyncio.Task[None]] = set()
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
            await asyncio.wait(self._rolls, timeout=CLOSE_SECONDS)
        for purse in list(self._purses.values()):
            if (purse.records or purse.lease_id) and self._now() < deadline:
                await self._roll(purse, RollPlan(Nanos(0), urgent=True))
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
            if now >= purse.short_until or purse.total >= want:
                await self._roll_soon(purse, want)
                now = self._now()
                if purse.take(want, now):
                    return want
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
            log.error("gateway.wal.failed", error=str(error), remedy="Make room under WOPR_HOME/wal.")
        purse.owed += record.cost
        purse.records.append(Used(record, segment))
        self.release(purse, held)
        if len(purse.records) == credit.SETTLE_RECORDS:
            self._wake.set()

    def backlog(self) -> tuple[int, int]:
        """Records that wait for their settlement, and bytes in the log."""
        return sum(len(purse.records) for purse in self._purses.values()), self._wal.size()

    async def recover(self) -> int:
        """Settle what dead processes left; how many records there were. Files that can't be settled now stay."""
        count = 0
        for left in wal.remains(self._platform.settings.wopr_home / WAL_FOLDER):
            try:
                await self._settle_lines(left.lines)
            except DATABASE_ERRORS as error:
                left.leave()
                log.warning("gateway.wal.waits", file=left.path.name, error=str(error))
                continue
            count += len(left.lines)
            left.remove()
            log.info("gateway.wal.recovered", file=left.path.name, lines=len(left.lines))
        return count

    async def _run(self) -> None:
        while True:
            timeout = credit.SETTLE_SECONDS if self._purses else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), timeout)
            self._wake.clear()
            now = self._now()
            plans = [(purse, plan) for purse in self._purses.values() if (plan := credit.plan_roll(purse, now))]
            plans.sort(key=lambda pair: not pair[1].urgent)
            room = max(0, ROLLS_AT_ONCE - len(self._rolls))
            self._more = len(plans) > room
            for purse, plan in plans[:room]:
                purse.rolling = True
                task = asyncio.create_task(self._roll(purse, plan), name="gateway roll")
                self._rolls.add(task)
                task.add_done_callback(self._rolled)
            self._flush()
            for purse in [each for each in self._purses.values() if credit.is_spent(each, now)]:
                del self._purses[purse.tenant_id]

    def _rolled(self, task: "asyncio.Task[None]") -> None:
        self._rolls.discard(task)
        if self._more or any(purse.waiters for purse in self._purses.values()):
            self._wake.set()

    async def _roll(self, purse: Purse, plan: RollPlan) -> None:
        purse.rolling = True
        settling, purse.records = purse.records, []
        waiters, purse.waiters = purse.waiters, []
        purse.wanted = 0
        before = purse.amount
        if plan.want == 0:
            purse.amount = 0
        done = False
        try:
            await self._roll_in_database(purse, plan, settling)
            done = True
        except (*DATABASE_ERRORS, WoprError) as error:
            log.warning("gateway.settle.failed", error=f"{type(error).__name__}: {error}", records=len(settling))
        finally:
            if not done:  # nothing may be lost, whatever it was that failed
                purse.records = settling + purse.records
                purse.amount = before
                meters.SETTLE_FAILURES.inc()
            purse.failing = not done
            purse.rolling = not done
            if not done:
                asyncio.get_running_loop().call_later(FAILED_RETRY_SECONDS, setattr, purse, "rolling", False)
            purse.rolled_at = self._now()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _roll_in_database(self, purse: Purse, plan: RollPlan, settling: Sequence[Used]) -> None:
        now = self._platform.clock.now()
        roll = LeaseRoll(
            purse.tenant_id,
            purse.lease_id,
            plan.want,
            Nanos(1),
            [used.record for used in settling],
            credit.LEASE_SECONDS,
        )
        async with self._platform.db.begin() as session:
            lease = await lease_roll(session, roll, now)
            granted = lease.amount if lease is not None else 0
            funds = await balance(session, purse.tenant_id) if granted < plan.want else None
        self._apply(purse, lease, settling)
        if funds is not None:
            purse.total = funds.available + funds.held
            purse.short_until = self._now() + credit.SHORT_SECONDS
        else:
            purse.short_until = 0.0

    def _apply(self, purse: Purse, lease: Lease | None, settling: Sequence[Used]) -> None:
        purse.owed -= sum(used.record.cost for used in settling)
        purse.lease_id = lease.id if lease is not None else None
        purse.amount = lease.amount if lease is not None else 0
        purse.expires = self._now() + credit.LEASE_SECONDS - credit.LEASE_MARGIN_SECONDS
        if lease is not None:
            self._wal.note(pack_lease(purse.tenant_id, lease.id))
        for used in settling:
            if used.segment is not None:
                self._wal.settled(used.segment)
        meters.SETTLED.inc(len(settling))

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

    async def _settle_lines(self, lines: Sequence[bytes]) -> None:
        records: dict[TenantId, list[UsageRecord]] = {}
        leases: dict[TenantId, UUID] = {}
        for line in lines:
            kind, *values = wal.unpack(line)
            if kind == "u":
                record = unpack_usage(values)
                records.setdefault(record.tenant_id, []).append(record)
            elif kind == "l":
                leases[TenantId(UUID(values[0]))] = UUID(values[1])
        for tenant in sorted(records.keys() | leases.keys()):
            mine = records.get(tenant, [])
            for start in range(0, max(1, len(mine)), RECOVER_RECORDS):
                part = mine[start : start + RECOVER_RECORDS]
                roll = LeaseRoll(tenant, leases.pop(tenant, None), Nanos(0), Nanos(0), part)
                async with self._platform.db.begin() as session:
                    await lease_roll(session, roll, self._platform.clock.now())


def pack_usage(record: UsageRecord) -> bytes:
    """A usage record as a line of the log: JSON, written by hand because it is written for every request."""
    r = record
    return (
        f'["u","{r.request_id.hex}","{r.tenant_id.hex}",{_hex(r.key_id)},{_hex(r.bot_id)},{_hex(r.turn_id)},'
        f'"{r.kind}",{json.dumps(r.model)},{json.dumps(r.node_id)},{r.prompt_tokens},{r.completion_tokens},{r.units},'
        f'{r.cost},{r.upstream_cost},"{r.status}",{r.started_at.timestamp()!r},{r.duration_ms},'
        f"{'null' if r.first_token_ms is None else r.first_token_ms}]"
    ).encode()


def unpack_usage(values: Sequence[Any]) -> UsageRecord:
    """The record that `pack_usage` was given."""
    found = dict(zip(FIELDS, values, strict=True))
    for name in ("request_id", "tenant_id", "key_id", "bot_id", "turn_id"):
        found[name] = UUID(found[name]) if found[name] is not None else None
    found["started_at"] = datetime.fromtimestamp(found["started_at"], UTC)
    return UsageRecord(**found)


def pack_lease(tenant_id: TenantId, lease_id: UUID) -> bytes:
    """Which lease this process holds, so that it can be given back for it when it dies."""
    return wal.pack("l", [tenant_id, lease_id])


def _hex(value: UUID | None) -> str:
    return "null" if value is None else f'"{value.hex}"'


FIELDS = tuple(UsageRecord.__dataclass_fields__)
