"""`wopr deliver` against the real world: the registry, releases on the host, what was dealt with, its own image.

What it remembers stands in `deliver.json` beside the state, whole or absent; a deliverer that lost it finds out from
the recorded releases. `deliver.alive` is written at each look, by which a successor shows that it works.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from posixpath import join

from wopr.delivery import commands
from wopr.delivery.api_journal import take_in
from wopr.delivery.context import Tell
from wopr.delivery.cutover import Limits
from wopr.delivery.deliver_handover import ALIVE_FILE, Handover, sign_of_life
from wopr.delivery.deploy import CONTAINER_RUNTIMES, Request, deploy
from wopr.delivery.glance import glance
from wopr.delivery.hosts import Host
from wopr.delivery.observing import observe_installation
from wopr.delivery.place import Place
from wopr.delivery.registry import Registry
from wopr.delivery.registry_reference import DIGEST, Reference, parse_reference
from wopr.delivery.release import Release, read_release, read_releases, read_state
from wopr.delivery.watch import BOT, PERIOD_SECONDS, PLATFORM, Ended, Event
from wopr.ops.journal import Journal

MEMORY_FILE = "deliver.json"
TRIGGER = "deliver"
TAKE_IN_SECONDS = 60.0
INCIDENT_AFTER_SECONDS = 120.0


@dataclass(frozen=True)
class Wish:
    """What is watched, where, with which credentials; read from the settings of the installation."""

    platform: str
    bot: str = ""
    period_seconds: float = PERIOD_SECONDS
    registry_server: str = ""
    registry_username: str = ""
    registry_password: str = field(default="", repr=False)
    plain_http: frozenset[str] = frozenset()
    limits: Limits = field(default_factory=Limits)
    incident_after_seconds: float = INCIDENT_AFTER_SECONDS

    def watched(self) -> dict[str, Reference]:
        """Kind → tag. An image that is pinned by digest, or is this engine's own, never changes and is not watched."""
        named = {PLATFORM: self.platform, BOT: self.bot}
        references = {
            kind: parse_reference(image) for kind, image in named.items() if image and not DIGEST.fullmatch(image)
        }
        return {kind: image for kind, image in references.items() if not image.digest}


def wish_of(settings: Mapping[str, str], defaults: Mapping[str, str], limits: Limits) -> Wish:
    """The wish in an installation's `.env`; `defaults` say what it leaves open. Names are the settings' own."""

    def value(name: str) -> str:
        return settings.get(name) or defaults.get(name, "")

    watches_bots = settings.get("BOT_RUNTIME") in CONTAINER_RUNTIMES or bool(settings.get("BOT_IMAGE"))
    return Wish(
        platform=value("WOPR_IMAGE"),
        bot=value("BOT_IMAGE") if watches_bots else "",
        period_seconds=float(value("DELIVER_PERIOD_SECONDS")),
        registry_server=value("REGISTRY_SERVER"),
        registry_username=value("REGISTRY_USERNAME"),
        registry_password=value("REGISTRY_PASSWORD"),
        plain_http=frozenset(one.strip() for one in value("REGISTRY_PLAIN_HTTP").split(",") if one.strip()),
        limits=limits,
        incident_after_seconds=float(value("INCIDENT_AFTER_SECONDS") or INCIDENT_AFTER_SECONDS),
    )


@dataclass
class RealWorld:
    """See `watch.World`. `report` hears of each event, `step` of each step of a release."""

    host: Host
    place: Place
    journal: Journal
    wish: Wish
    report: Callable[[Event], None]
    step: Tell
    by: str
    _took_in_at: float = float("-inf")
    _engine_answered: bool = False
    _registries: dict[str, Registry] = field(default_factory=dict)

    async def digest(self, image: Reference) -> str:
        return await self._registry(image.server).digest(image)

    async def releases(self) -> Sequence[Release]:
        return await read_releases(self.host, self.place)

    async def release(self, images: Mapping[str, str]) -> Ended:
        serving = await self._serving()
        request = Request(
            image=images.get(PLATFORM) or (serving.platform if serving else self.wish.platform),
            # Named, or the release would follow the bots' tag by itself.
            bot=images.get(BOT) or (serving.bot if serving and self.wish.bot else ""),
            trigger=TRIGGER,
            by=self.by,
            limits=self.wish.limits,
        )
        verdict = await deploy(self.host, self.place, self.journal, request, self.step)
        return Ended(verdict.verdict, verdict.release, verdict.reason)

    async def handled(self) -> Mapping[str, str]:
        return {kind: str(entry["digest"]) for kind, entry in (await self._memory()).items()}

    async def remember(self, kind: str, digest: str, verdict: str) -> None:
        memory = await self._memory()
        at = datetime.now(UTC).isoformat(timespec="seconds")
        memory[kind] = {"digest": digest, "verdict": verdict, "at": at}
        await self.host.write(join(self.place.dir, MEMORY_FILE), (json.dumps(memory, indent=1) + "\n").encode())

    async def alive(self, trouble: str) -> None:
        if not trouble and not self._engine_answered:  # once: what goes wrong later is no fault of this image
            asked = await self.host.run(commands.architecture())
            self._engine_answered = asked.ok
            trouble = "" if asked.ok else f"Docker does not answer: {asked.complaint}"
        await self.host.write(join(self.place.dir, ALIVE_FILE), sign_of_life(trouble))

    async def catch_up(self) -> None:
        if self.monotonic() - self._took_in_at >= TAKE_IN_SECONDS:
            self._took_in_at = self.monotonic()
            await take_in(self.host, self.place, self.journal)
            seen = await glance(self.host, self.place)
            await asyncio.to_thread(observe_installation, self.journal, seen, self.wish.incident_after_seconds)

    async def settled(self) -> None:
        """Nothing is left to release: let the own image follow the one that serves."""
        serving = await self._serving()
        if serving is None:
            return
        handed = await Handover(self.host, self.place).begin(serving.platform)
        if handed:
            self.report(Event("a new deliverer takes over", serving.platform))

    def tell(self, event: Event) -> None:
        self.report(event)

    def monotonic(self) -> float:
        return time.monotonic()

    async def close(self) -> None:
        for registry in self._registries.values():
            await registry.close()
        await self.host.close()

    def _registry(self, server: str) -> Registry:
        if server not in self._registries:
            ours = server == (self.wish.registry_server or server)
            self._registries[server] = Registry(
                server,
                self.wish.registry_username if ours else "",
                self.wish.registry_password if ours else "",
                self.wish.plain_http,
            )
        return self._registries[server]

    async def _serving(self) -> Release | None:
        state = await read_state(self.host, self.place)
        return await read_release(self.host, self.place, state.active.release) if state.active else None

    async def _memory(self) -> dict[str, dict[str, str]]:
        raw = await self.host.read(join(self.place.dir, MEMORY_FILE))
        try:
            found = json.loads(raw) if raw else {}
        except ValueError:
            return {}  # rebuilt from the releases
        return {kind: entry for kind, entry in found.items() if isinstance(entry, dict) and "digest" in entry}
