"""Settles what was used: in batches, while the lease of each customer is rolled, and after a crash from the log.

One transaction a customer and roll: usage rows, the posting, the old lease given back and the new one taken. It runs in
the background; a request waits for it only when its customer has no credit in this process yet.
"""

import asyncio
import contextlib
import functools
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from wopr.billing import codes
from wopr.billing.leases import Lease, LeaseRoll, lease_roll, lease_rolls
from wopr.billing.ledger import balance
from wopr.billing.usage import UsageRecord
from wopr.core.errors import WoprError
from wopr.core.ids import TenantId
from wopr.core.money import Nanos
from wopr.core.platform import Platform
from wopr.inference.gateway import credit, meters, wal
from wopr.inference.gateway.credit import OpenRoll, Purse, RollPlan, Used
from wopr.inference.gateway.errors import DATABASE_ERRORS
from wopr.inference.gateway.wal import Wal

ROLLS_AT_ONCE = 4
CUSTOMERS_AT_ONCE = 100
ROLLS_FOR_A_HOLD = 5
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
            for part, batch in _batches(plans).items():
                if part not in self._rolls:
                    task = asyncio.create_task(self._roll(batch), name="gateway roll")
                    self._rolls[part] = task
                    task.add_done_callback(functools.partial(self._rolled, part, len(plans) > len(batch)))
            self._flush()
            for purse in [each for each in self._purses.values() if credit.is_spent(each, now)]:
                del self._purses[purse.tenant_id]

    def _rolled(self, part: int, more: bool, _task: "asyncio.Task[None]") -> None:
        del self._rolls[part]
        if more or any(purse.waiters for purse in self._purses.values()):
            self._wake.set()

    async def _roll(self, batch: Sequence[tuple[Purse, RollPlan]]) -> None:
        rolls = [credit.begin_roll(purse, plan) for purse, plan in batch]
        try:
            await self._roll_in_database(rolls)
        except (*DATABASE_ERRORS, WoprError) as error:
            meters.SETTLE_FAILURES.inc()
            log.warning("gateway.settle.failed", error=f"{type(error).__name__}: {error}", customers=len(rolls))
        finally:
            for roll in rolls:
                credit.end_roll(roll, self._now(), together=len(rolls) > 1)

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
            self._wal.note(pack_lease(roll.purse.tenant_id, lease.id))
        for used in roll.settling:
            if used.segment is not None:
                self._wal.settled(used.segment)
        meters.SETTLED.inc(len(roll.settling))

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


def _batches(plans: Sequence[tuple[Purse, RollPlan]]) -> dict[int, list[tuple[Purse, RollPlan]]]:
    """What may be rolled at once: customers in different parts never wait for each other in the database."""
    batches: dict[int, list[tuple[Purse, RollPlan]]] = {}
    for purse, plan in plans:
        batch = batches.setdefault(codes.shard(purse.tenant_id) % ROLLS_AT_ONCE, [])
        alone = purse.alone or (bool(batch) and batch[0][0].alone)
        if not (batch and alone) and len(batch) < CUSTOMERS_AT_ONCE:
            batch.append((purse, plan))
    return batches


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
