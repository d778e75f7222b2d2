"""Identifiers: one type each, so that a bot's id is never passed where a tenant's is meant."""

import secrets
import time
from typing import NewType
from uuid import UUID

TenantId = NewType("TenantId", UUID)
UserId = NewType("UserId", UUID)
SessionId = NewType("SessionId", UUID)
KeyId = NewType("KeyId", UUID)
BotId = NewType("BotId", UUID)
TurnId = NewType("TurnId", UUID)
RequestId = NewType("RequestId", UUID)
TransferId = NewType("TransferId", UUID)
NodeId = NewType("NodeId", str)


def new_id() -> UUID:
    """A UUID of version 7 (RFC 9562): 48 bits of Unix milliseconds, then random, so that ids sort by age."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)
