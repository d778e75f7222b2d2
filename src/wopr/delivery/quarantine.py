"""Releases that failed are not tried again by themselves.

What is remembered is the whole content: the same digest with a corrected `.env` is another release, and may be tried.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from wopr.delivery.hosts import Host
from wopr.delivery.lock import Fence
from wopr.delivery.place import Place
from wopr.delivery.release import Release

ENTRIES_MAX = 200


@dataclass(frozen=True)
class Entry:
    """One content that failed, in which release, why and when."""

    platform: str
    bot: str
    config_hash: str
    env_hash: str
    release: int
    reason: str
    at: str

    @property
    def content(self) -> tuple[str, str, str, str]:
        return (self.platform, self.bot, self.config_hash, self.env_hash)


async def read_quarantine(host: Host, place: Place) -> list[Entry]:
    """Everything that is quarantined, oldest first."""
    raw = await host.read(place.quarantine)
    return [Entry(**entry) for entry in json.loads(raw)] if raw else []


def find(entries: Sequence[Entry], content: tuple[str, str, str, str]) -> Entry | None:
    """The entry of this content."""
    return next((entry for entry in reversed(entries) if entry.content == content), None)


async def add(fence: Fence, release: Release, reason: str) -> None:
    """Remember a content that failed; once is enough."""
    entries = [entry for entry in await read_quarantine(fence, fence.place) if entry.content != release.content()]
    platform, bot, config_hash, env_hash = release.content()
    at = datetime.now(UTC).isoformat(timespec="seconds")
    entries.append(Entry(platform, bot, config_hash, env_hash, release.number, reason, at))
    await _write(fence, entries[-ENTRIES_MAX:])


async def lift(fence: Fence, content: tuple[str, str, str, str]) -> None:
    """Forget a content: the operator wants it tried again."""
    entries = await read_quarantine(fence, fence.place)
    kept = [entry for entry in entries if entry.content != content]
    if kept != entries:
        await _write(fence, kept)


async def _write(fence: Fence, entries: Sequence[Entry]) -> None:
    await fence.write(fence.place.quarantine, json.dumps([asdict(entry) for entry in entries], indent=1).encode())
