"""A slot: filled with a release's containers, told to leave, emptied.

Containers bear a hash of all that they were made from. What was kept of an earlier release, or created ahead while it
was not yet sure whether it may come in, is started as it is when that hash is the wanted one.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from wopr.core.errors import WoprError
from wopr.delivery import commands
from wopr.delivery.context import Context
from wopr.delivery.look import containers
from wopr.delivery.place import Place, Slot, other
from wopr.delivery.plan import Container
from wopr.delivery.release import (
    Part,
    Release,
    Snapshot,
    State,
    digest_of,
    read_release,
    read_snapshot,
    read_state,
)
from wopr.ops.journal import JournalFailed

COMPOSE_SECONDS = 120.0
DRAIN_SECONDS = 20.0
DRAIN_LEAD_SECONDS = 1.0
STOP_MARGIN_SECONDS = 5.0
STOPPED = ("created", "exited")
PRIVATE_NETWORKS = "127.0.0.1/32,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"


async def fill(ctx: Context, release: Release, snapshot: Snapshot, slot: Slot, *, created: bool = False) -> None:
    """Start a release in a slot: the containers that are there when they are what it needs, else new ones.

    `created`: they were just created for it.
    """
    place = ctx.place
    made, here = ("", list[Container]()) if created else await _prepared(ctx, release, snapshot, slot)
    ctx.step("environment")
    start = commands.start(place.slot_containers(slot))
    if not ((created or _startable(ctx, slot, here, made)) and (await ctx.fence.run(start)).ok):
        await ctx.fence.must(commands.remove_slot(place, slot))
        file = place.snapshot(release.number, "compose.yaml")
        await ctx.fence.must(commands.up_slot(ctx.compose, place, file, slot), timeout=COMPOSE_SECONDS)
    ctx.step("started", slot=slot)


@dataclass(frozen=True)
class Ahead:
    """A release's containers, being created while it is not yet sure whether it may come in; nothing starts.

    Compose takes as long for that as it takes to find out. A killed run's are removed by the next one.
    """

    ctx: Context
    serving: Release
    beside: Part
    creating: "asyncio.Task[None]"

    async def done(self) -> bool:
        """Whether they are there. What can't be created is created when it is started, and that says why it can't."""
        await asyncio.wait((self.creating,))
        return not self.creating.cancelled() and self.creating.exception() is None

    async def undo(self) -> None:
        """Remove them: the release may not come in. What this stumbles over is told; why it may not matters more."""
        await self.done()
        ctx, slot = self.ctx, self.beside.slot
        try:
            await ctx.fence.run(commands.remove_slot(ctx.place, other(slot)))
            files = await read_snapshot(ctx.host, ctx.place, self.serving.number)
            await write_environment(ctx, self.serving, files, slot)
        except WoprError as error:
            with contextlib.suppress(JournalFailed):
                ctx.step("not cleared away", problem=error.message)


@contextlib.asynccontextmanager
async def creating_ahead(
    ctx: Context, release: Release, snapshot: Snapshot, state: State
) -> AsyncIterator[Ahead | None]:
    """Create a release's containers meanwhile. None for a first one, and for one with another configuration: it has no
    file yet to create them from. Nothing goes on being created after the block."""
    serving = await read_release(ctx.host, ctx.place, state.active.release) if state.active else None
    if state.active is None or serving is None or serving.config_hash != release.config_hash:
        yield None
        return
    creating = asyncio.create_task(_create(ctx, release, snapshot, state.active), name="create-ahead")
    try:
        yield Ahead(ctx, serving, state.active, creating)
    except BaseException:
        creating.cancel()
        raise
    finally:
        await asyncio.gather(creating, return_exceptions=True)


async def _create(ctx: Context, release: Release, snapshot: Snapshot, beside: Part) -> None:
    """Create a release's containers by the compose file of the one that serves, which is the same."""
    slot = other(beside.slot)
    made, here = await _prepared(ctx, release, snapshot, slot)
    if _startable(ctx, slot, here, made):
        return
    if here:
        await ctx.fence.must(commands.remove_slot(ctx.place, slot))
    file = ctx.place.snapshot(beside.release, "compose.yaml")
    await ctx.fence.must(commands.create_slot(ctx.compose, ctx.place, file, slot), timeout=COMPOSE_SECONDS)


async def _prepared(ctx: Context, release: Release, snapshot: Snapshot, slot: Slot) -> tuple[str, list[Container]]:
    """Write a slot's environment: the hash of what its containers are to be made from, and which are there."""
    return await asyncio.gather(write_environment(ctx, release, snapshot, slot), _in_slot(ctx, slot))


async def _in_slot(ctx: Context, slot: Slot) -> list[Container]:
    return [one for one in await containers(ctx.host, ctx.place) if one.slot == slot]


def _startable(ctx: Context, slot: Slot, here: Sequence[Container], made: str) -> bool:
    """Whether a slot's containers are all there, stopped, and made from just this."""
    same = all(one.made == made and one.status in STOPPED and not one.restarts for one in here)
    return same and {one.name for one in here} == set(ctx.place.slot_containers(slot))


async def write_environment(ctx: Context, release: Release, snapshot: Snapshot, slot: Slot) -> str:
    """Write the environment of a slot, and what compose interpolates, from the files of the release.

    Returns the hash of all that the slot's containers are made from.
    """
    place = ctx.place
    found = await _found(ctx)
    inside, filling = _filling(place, release, snapshot, found)
    await ctx.fence.write(place.slot_env(slot), inside)
    beside = await ctx.host.read(place.slot_env(other(slot)))
    if beside is None:  # compose 1.29 reads the files of services that it does not start
        await ctx.fence.write(place.slot_env(other(slot)), b"")
    state = await read_state(ctx.host, place)
    slots: dict[Slot, commands.Filling] = {"blue": filling, "green": filling}
    if state.active and state.active.slot != slot:
        number = state.active.release
        serving, files = await read_release(ctx.host, place, number), await read_snapshot(ctx.host, place, number)
        slots[state.active.slot] = _filling(place, serving, files, found)[1]
    text = commands.stack_env(place, _interpolated(snapshot, found), slots, release.platform)
    await ctx.fence.write(place.stack_env, text.encode())
    return filling.made


async def _found(ctx: Context) -> dict[str, str]:
    """What the host itself says: the group that may use the engine, and whose the folder is."""
    group, owner = await asyncio.gather(ctx.host.run(commands.socket_group()), ctx.host.run(commands.owner(ctx.place)))
    found = {"DOCKER_GID": group.text.strip(), "WOPR_USER": owner.text.strip()}
    return {name: value for name, value in found.items() if value.replace(":", "").isdecimal()}


def _filling(
    place: Place, release: Release, snapshot: Snapshot, found: Mapping[str, str]
) -> tuple[bytes, commands.Filling]:
    """The environment of a release's slot, and with what it is filled."""
    settings = _settings(snapshot)
    address = f"wopr:{quote(settings.get('POSTGRES_PASSWORD', ''), safe='')}@postgres:5432/wopr_platform"
    trusted = ",".join((PRIVATE_NETWORKS, *settings.get("EDGE_PROXIES", "").replace(",", " ").split()))
    given = {"DATABASE_URL": f"postgresql://{address}", "TRUSTED_PROXIES": trusted, **_bots(place)}
    settings |= {"BOT_IMAGE": release.bot} if release.bot else {}
    inside = commands.slot_env(settings, given).encode()
    around = commands.stack_env(place, _interpolated(snapshot, found), {}, "")
    made = digest_of(release.platform.encode(), inside, around.encode(), snapshot.files["compose.yaml"])
    return inside, commands.Filling(release.platform, release.number, made)


def _interpolated(snapshot: Snapshot, found: Mapping[str, str]) -> dict[str, str]:
    """The operator's settings, and what was found where they do not say."""
    return {**found, **_settings(snapshot)}


async def empty(ctx: Context, slot: Slot) -> None:
    """Empty a slot: what runs there gets its time to drain, then everything is removed."""
    await drain(ctx, slot)
    await ctx.fence.must(commands.remove_slot(ctx.place, slot))
    ctx.step("removed", slot=slot)


async def retire(ctx: Context, slot: Slot) -> None:
    """Stop a slot as `empty` does and keep its containers, so that a rollback only starts them."""
    if await drain(ctx, slot):
        ctx.step("kept", slot=slot)
    else:
        await empty(ctx, slot)


async def drain(ctx: Context, slot: Slot) -> bool:
    """Tell a slot to leave and wait until it has; its containers stay, stopped. Whether all of them were there."""
    text = (await ctx.host.read(ctx.place.slot_env(slot)) or b"").decode()
    settings = commands.parsed_env(text)
    lead = _number(settings.get("DRAIN_LEAD_SECONDS", ""), DRAIN_LEAD_SECONDS)
    seconds = round(lead + _number(settings.get("DRAIN_SECONDS", ""), DRAIN_SECONDS) + STOP_MARGIN_SECONDS)
    # One that is gone already is as good as stopped.
    stopped = await ctx.fence.run(commands.stop(ctx.place.slot_containers(slot), seconds), timeout=seconds + 30)
    return stopped.ok


def _bots(place: Place) -> dict[str, str]:
    """Whose the bots' containers are, and that they reach the platform at Caddy, whichever slot serves."""
    return {"WOPR_INSTALLATION": place.name, "BOT_GATEWAY_URL": f"http://gateway:{commands.API_PORT}"}


def _settings(snapshot: Snapshot) -> dict[str, str]:
    parsed = commands.parsed_env(snapshot.files["env"].decode("utf-8", "replace"))
    return {name: value for name, value in parsed.items() if value}


def _number(text: str, default: float) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return default
