"""Releases and the state of an installation: small JSON files on the host, each whole or absent.

`state.json` is what shall be. Its atomic replacement is the moment at which a release becomes the one that serves:
what was done before it is abandoned by the next run, what remains after it is finished by the next run.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from wopr.delivery.errors import HostFailed
from wopr.delivery.hosts import Host
from wopr.delivery.lock import Fence
from wopr.delivery.place import Place, Slot

HASH_CHARACTERS = 16
SNAPSHOT_FILES = ("env", "compose.yaml", "Caddyfile")
LIST_SCRIPT = 'for file in "$1"/*.json; do [ ! -e "$file" ] || { cat "$file" && echo; } || exit 1; done'


class Judgement(StrEnum):
    """What became of a release."""

    PENDING = "pending"
    GOOD = "good"
    BAD = "bad"  # it never served, or went back by itself
    ABANDONED = "abandoned"  # its deployer was killed before it served
    ROLLED_BACK = "rolled back"  # the operator went back from it


@dataclass(frozen=True)
class Release:
    """One release: images by digest, hashes of what else it consists of, and what became of it.

    `migrations` are those that it ran: revision and kind (adds, changes or destroys). `ready_seconds` is how long its
    start took. `restores` is the number of the release that a rollback brought back.
    """

    number: int
    platform: str
    bot: str
    config_hash: str
    env_hash: str
    migration_head: str
    created_at: str
    created_by: str
    trigger: str = "operator"
    verdict: str = Judgement.PENDING
    reason: str = ""
    seconds: float = 0.0
    ready_seconds: float = 0.0
    restores: int | None = None
    migrations: tuple[Mapping[str, str], ...] = ()

    def same_content(self, other: "Release") -> bool:
        """Whether both run the same images with the same configuration and environment."""
        return self.content() == other.content()

    def same_around(self, other: "Release") -> bool:
        """Whether what stands around the slots is the same: PostgreSQL and Caddy take settings of `.env`, too."""
        return (self.config_hash, self.env_hash) == (other.config_hash, other.env_hash)

    def content(self) -> tuple[str, str, str, str]:
        return (self.platform, self.bot, self.config_hash, self.env_hash)

    def judged(self, verdict: Judgement, reason: str = "", seconds: float | None = None) -> "Release":
        return replace(self, verdict=verdict, reason=reason, seconds=self.seconds if seconds is None else seconds)

    def data(self) -> bytes:
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True)
class Part:
    """A release in a slot."""

    release: int
    slot: Slot
    reason: str = ""  # of one that leaves because it was bad; empty: because another one came


@dataclass(frozen=True)
class State:
    """What shall be: which release serves from which slot, which one is on its way in, which one is on its way out."""

    active: Part | None = None
    candidate: Part | None = None
    leaving: Part | None = None

    def data(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()


@dataclass(frozen=True)
class Snapshot:
    """What a release consists of besides its images."""

    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def env_hash(self) -> str:
        return digest_of(self.files.get("env", b""))

    @property
    def config_hash(self) -> str:
        return digest_of(self.files.get("compose.yaml", b""), self.files.get("Caddyfile", b""))


def digest_of(*contents: bytes) -> str:
    """A short hash of some files' contents, in order."""
    total = hashlib.sha256()
    for content in contents:
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()[:HASH_CHARACTERS]


def previous_good(releases: Sequence[Release], current: Release) -> Release | None:
    """The release to which a rollback goes: the newest good one before what runs now, with other content.

    A release that itself restored an older one counts as that older one, so that going back twice goes back two steps.
    """
    limit = current.restores or current.number
    before = [one for one in releases if one.number < limit and one.verdict == Judgement.GOOD and not one.restores]
    return next((one for one in sorted(before, key=_number, reverse=True) if not one.same_content(current)), None)


async def read_state(host: Host, place: Place) -> State:
    """The state; empty where nothing was ever released. HostFailed when the file was damaged."""
    raw = await host.read(place.state)
    if raw is None:
        return State()
    try:
        content: dict[str, Any] = json.loads(raw)
        return State(**{name: Part(**part) if part else None for name, part in content.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise HostFailed(f"{place.state} can't be read: {error}", remedy="Restore it from a backup.") from error


async def read_releases(host: Host, place: Place) -> list[Release]:
    """Every release, oldest first."""
    got = await host.run(("sh", "-c", LIST_SCRIPT, "list", place.releases))
    if not got.ok:  # cut off, the list would be believed: the next release would take the number of one that is there
        raise HostFailed(f"{place.releases} on {host.describe()} can't be read: {got.complaint}")
    try:
        found = [Release(**_typed(json.loads(line))) for line in got.text.splitlines()]
    except (ValueError, TypeError) as error:
        raise HostFailed(f"A file in {place.releases} can't be read: {error}") from error
    return sorted(found, key=_number)


async def read_release(host: Host, place: Place, number: int) -> Release:
    """One release; HostFailed when it is not there."""
    raw = await host.read(place.release(number))
    if raw is None:
        raise HostFailed(f"Release {number} is not recorded in {place.releases}.", remedy="wopr releases")
    try:
        return Release(**_typed(json.loads(raw)))
    except (ValueError, TypeError) as error:
        raise HostFailed(
            f"{place.release(number)} can't be read: {error}", remedy="Restore it from a backup."
        ) from error


async def read_inputs(host: Host, place: Place) -> Snapshot:
    """The operator's files as they are now."""
    paths = {"env": place.env, "compose.yaml": place.compose, "Caddyfile": place.caddyfile}
    return Snapshot({name: await host.read(path) or b"" for name, path in paths.items()})


async def read_snapshot(host: Host, place: Place, number: int) -> Snapshot:
    """The files of a release."""
    files = {name: await host.read(place.snapshot(number, name)) for name in SNAPSHOT_FILES}
    if missing := [name for name, content in files.items() if content is None]:
        raise HostFailed(f"Release {number} lacks {', '.join(missing)} in {place.snapshot(number)}.")
    return Snapshot({name: content or b"" for name, content in files.items()})


async def record(fence: Fence, release: Release) -> None:
    """Write a release durably."""
    await fence.write(fence.place.release(release.number), release.data())


async def record_new(fence: Fence, release: Release, snapshot: Snapshot) -> None:
    """Write a new release: first its files, then itself, so that none is recorded without them."""
    files = snapshot.files.items()
    await asyncio.gather(*(fence.write(fence.place.snapshot(release.number, name), data) for name, data in files))
    await record(fence, release)


async def write_state(fence: Fence, state: State) -> None:
    """Make it so. For a release that comes in this is the commit point."""
    await fence.write(fence.place.state, state.data())


def _typed(content: dict[str, Any]) -> dict[str, Any]:
    return content | {"migrations": tuple(content.get("migrations", ()))}


def _number(release: Release) -> int:
    return release.number
