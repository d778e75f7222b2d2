"""Settles what dead processes left in their logs, and sets aside what can't be settled at all.

Nothing that one record or one file has wrong may stop the others: a line that is damaged, one that this program can't
read and a record that PostgreSQL refuses stay on the disk in a file that ends in `.bad`, with an error in the log.
Renamed back to `.wal` such a file is settled again; usage is keyed by the request's id, so nothing is charged twice.
"""

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy.exc import DBAPIError

from wopr.billing.leases import LeaseRoll, lease_roll, settle_batch
from wopr.billing.usage import UsageRecord
from wopr.core.errors import WoprError
from wopr.core.ids import TenantId
from wopr.core.money import Nanos
from wopr.core.platform import Platform
from wopr.inference.gateway import lines, wal
from wopr.inference.gateway.errors import DATABASE_ERRORS

RECORDS_AT_ONCE = 1_000
# SQLSTATE classes in which the data is at fault: data exception, integrity constraint violation.
REFUSAL_CLASSES = ("22", "23")

log = structlog.get_logger(__name__)


async def recover(platform: Platform, folder: Path) -> int:
    """Settle what dead processes left; how many lines there were. Files that can't be settled now stay."""
    count = 0
    for left in wal.remains(folder):
        try:
            bad = left.damaged + await _settle_lines(platform, left.lines)
        except (*DATABASE_ERRORS, WoprError) as error:
            left.leave()
            log.warning("gateway.wal.waits", file=left.path.name, error=f"{type(error).__name__}: {error}")
            continue
        except BaseException:
            left.leave()
            raise
        count += len(left.lines)
        if bad:
            path = left.set_aside()
            log.error("gateway.wal.bad", file=path.name, lines=bad, remedy="These lines are not charged; look at them.")
        else:
            left.remove()
        log.info("gateway.wal.recovered", file=left.path.name, lines=len(left.lines))
    return count


async def sift(platform: Platform, records: Sequence[UsageRecord]) -> list[UsageRecord]:
    """Settle records of which one may be refused, by halves; those that are refused alone are returned.

    Raises what the database raises when it is away; what was settled until then is ignored by the next call.
    """
    if not records:
        return []
    try:
        async with platform.db.begin() as session:
            await settle_batch(session, records)
    except DATABASE_ERRORS as error:
        if not is_refusal(error):
            raise
        if len(records) == 1:
            log.error("gateway.usage.refused", request_id=str(records[0].request_id), error=str(error))
            return list(records)
    else:
        return []
    half = len(records) // 2
    return [*await sift(platform, records[:half]), *await sift(platform, records[half:])]


def is_refusal(error: BaseException) -> bool:
    """Whether the database was there and would not have these values; asking again can't help."""
    cause = error.orig.__cause__ or error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if isinstance(cause, asyncpg.InterfaceError) and isinstance(cause, ValueError):
        return True  # asyncpg could not encode a value for its column
    return str(getattr(cause, "sqlstate", None) or "").startswith(REFUSAL_CLASSES)


async def _settle_lines(platform: Platform, found: Sequence[bytes]) -> int:
    """Settle a file's lines, tenant by tenant; how many could not be read or were refused."""
    records: dict[TenantId, list[UsageRecord]] = {}
    leases: dict[TenantId, UUID] = {}
    bad = 0
    for line in found:
        try:
            value = lines.unpack(line)
        except ValueError as error:
            bad += 1
            log.warning("gateway.wal.unread", error=str(error))
            continue
        if isinstance(value, UsageRecord):
            records.setdefault(value.tenant_id, []).append(value)
        else:
            leases[value[0]] = value[1]
    for tenant in sorted(records.keys() | leases.keys()):
        mine = records.get(tenant, [])
        for start in range(0, max(1, len(mine)), RECORDS_AT_ONCE):
            roll = LeaseRoll(
                tenant, leases.pop(tenant, None), Nanos(0), Nanos(0), mine[start : start + RECORDS_AT_ONCE]
            )
            bad += await _settle_roll(platform, roll)
    return bad


async def _settle_roll(platform: Platform, roll: LeaseRoll) -> int:
    try:
        async with platform.db.begin() as session:
            await lease_roll(session, roll, platform.clock.now())
    except DATABASE_ERRORS as error:
        if not is_refusal(error):
            raise
    else:
        return 0
    refused = await sift(platform, roll.settlements)
    async with platform.db.begin() as session:  # the lease goes back by itself; a new debt is settled with it
        rest = LeaseRoll(roll.tenant_id, roll.lease_id, Nanos(0), Nanos(0))
        await lease_roll(session, rest, platform.clock.now())
    return len(refused)
