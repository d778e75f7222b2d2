"""Lines of the usage log: what a record looks like on the disk, and how each version of it is read again.

A line begins with its kind and version. A process may find lines of an older program; when a field is added to the
record, a version is added here, and what older lines lack is filled in.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, get_args
from uuid import UUID

from wopr.billing.usage import UsageKind, UsageRecord, UsageStatus
from wopr.core.ids import TenantId
from wopr.inference.gateway import wal

USAGE = "u1"
LEASE = "l"
FIELDS = (
    "request_id",
    "tenant_id",
    "key_id",
    "bot_id",
    "turn_id",
    "kind",
    "model",
    "node_id",
    "prompt_tokens",
    "completion_tokens",
    "units",
    "cost",
    "upstream_cost",
    "status",
    "started_at",
    "duration_ms",
    "first_token_ms",
)
# `u` is how the first program wrote what is `u1` now.
VERSIONS = {USAGE: FIELDS, "u": FIELDS}
IDS = ("request_id", "tenant_id", "key_id", "bot_id", "turn_id")
NUMBERS = ("prompt_tokens", "completion_tokens", "units", "cost", "upstream_cost", "duration_ms")

Line = UsageRecord | tuple[TenantId, UUID]


def pack_usage(record: UsageRecord) -> bytes:
    """A usage record as a line of the log: JSON, written by hand because it is written for every request."""
    r = record
    return (
        f'["{USAGE}","{r.request_id.hex}","{r.tenant_id.hex}",{_hex(r.key_id)},{_hex(r.bot_id)},{_hex(r.turn_id)},'
        f'"{r.kind}",{json.dumps(r.model)},{json.dumps(r.node_id)},{r.prompt_tokens},{r.completion_tokens},{r.units},'
        f'{r.cost},{r.upstream_cost},"{r.status}",{r.started_at.timestamp()!r},{r.duration_ms},'
        f"{'null' if r.first_token_ms is None else r.first_token_ms}]"
    ).encode()


def pack_lease(tenant_id: TenantId, lease_id: UUID) -> bytes:
    """Which lease this process holds, so that it can be given back for it when it dies."""
    return wal.pack(LEASE, [tenant_id, lease_id])


def unpack(line: bytes) -> Line:
    """The usage record, or the tenant and its lease. Raises ValueError when this program can't read the line."""
    try:
        kind, *values = wal.unpack(line)
        if kind == LEASE:
            tenant, lease = values
            return TenantId(UUID(hex=tenant)), UUID(hex=lease)
        return _usage(VERSIONS[kind], values)
    except (KeyError, TypeError, AttributeError, OverflowError, OSError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _usage(fields: Sequence[str], values: Sequence[Any]) -> UsageRecord:
    found = dict(zip(fields, values, strict=True))
    for name in IDS:
        found[name] = UUID(hex=found[name]) if found[name] is not None else None
    if found["kind"] not in get_args(UsageKind) or found["status"] not in get_args(UsageStatus):
        raise ValueError("unknown kind or status")
    if not all(isinstance(found[name], int) and found[name] >= 0 for name in NUMBERS):
        raise ValueError("a number is not one")
    found["started_at"] = datetime.fromtimestamp(found["started_at"], UTC)
    return UsageRecord(**found)


def _hex(value: UUID | None) -> str:
    return "null" if value is None else f'"{value.hex}"'
