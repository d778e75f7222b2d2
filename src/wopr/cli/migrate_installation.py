"""`wopr migrate --dir`: the migrations of an installation on a host, with a verified dump before anything changes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from wopr.cli import output
from wopr.cli.installation import Where
from wopr.cli.progress import Progress
from wopr.core.errors import WoprError
from wopr.delivery.dump import dump_verified
from wopr.delivery.dump_source import revision
from wopr.delivery.errors import Refused
from wopr.delivery.hosts import Host
from wopr.delivery.images_on_host import fetch
from wopr.delivery.lock import Fence, hold
from wopr.delivery.migrate import Pending, guard, pending, ran, recorded, run_migrations
from wopr.delivery.place import Place
from wopr.delivery.release import read_release, read_state, record
from wopr.delivery.setup import settings_there


@dataclass(frozen=True)
class Wish:
    """What the operator asked for. Without an image those of the release that serves are meant."""

    image: str = ""
    allow_destructive: bool = False
    dry_run: bool = False


def migrate_installation(where: Where, wish: Wish, stages: Progress) -> dict[str, Any]:
    """Judge what is pending, refuse what would do harm, dump, migrate; what was done, for people and programs."""
    return asyncio.run(_migrate(where, wish, stages))


def dump_installation(where: Where, stages: Progress, *, dry_run: bool) -> dict[str, Any]:
    """Take a dump of the installation's database and prove that it restores; its facts, `path` empty when dry."""
    return asyncio.run(_dump(where, stages, dry_run=dry_run))


async def _dump(where: Where, stages: Progress, *, dry_run: bool) -> dict[str, Any]:
    host = where.machine()
    try:
        place = await where.place(host)
        if dry_run:
            return {"path": "", "revision": await revision(host, place)}
        async with hold(host, place, "dump", output.say) as fence:
            with (
                where.journal().knowing(await settings_there(host, place)).operation("dump") as operation,
                stages.stage(host.describe(), "dump the database and restore the dump", keep=False),
            ):
                dump = await dump_verified(fence, place)
                operation.step("dumped", path=dump.path, tables=dump.tables, rows=dump.rows)
        return asdict(dump)
    finally:
        await host.close()


async def _migrate(where: Where, wish: Wish, stages: Progress) -> dict[str, Any]:
    host = where.machine()
    try:
        place = await where.place(host)
        image = await _fetched(host, place, wish.image, stages) if wish.image else await _image_of(host, place)
        with stages.stage(host.describe(), "read what is pending", keep=False):
            plan = await pending(host, place, image)
        if plan.ahead or not plan.migrations:
            return {"from": plan.at, "to": plan.at, "applied": False}
        if wish.dry_run:
            return _done(plan, applied=False)
        guard(plan, allow_destructive=wish.allow_destructive)
        dump = await _apply(host, replace(wish, image=image), where, stages, plan.at)
        return _done(plan, applied=True) | {"dump": dump}
    finally:
        await host.close()


async def _apply(host: Host, wish: Wish, where: Where, stages: Progress, expected: str | None) -> dict[str, Any]:
    name, image, place = host.describe(), wish.image, await where.place(host)
    async with hold(host, place, "migrate", output.say) as fence:
        plan = await pending(fence, place, image, expected)  # again: it may have been somebody else's turn in between
        guard(plan, allow_destructive=wish.allow_destructive)
        knowing = where.journal().knowing(await settings_there(host, place))
        with knowing.operation("migrate", database_at=plan.at, code_at=plan.head, image=image) as operation:
            with stages.stage(name, "dump the database and restore the dump", keep=False):
                dump = await dump_verified(fence, place)
            operation.step("dumped", path=dump.path, tables=dump.tables, rows=dump.rows)
            with stages.stage(name, f"migrate to {plan.head}", keep=False):
                async with _counted(fence, plan):
                    # What is destructive was judged above, with this host's own types, and is not judged again inside.
                    reached = await run_migrations(fence, place, image, allow_destructive=True)
            operation.step("migrated", to=reached)
    return asdict(dump)


async def _fetched(host: Host, place: Place, image: str, stages: Progress) -> str:
    """An image that was named, on the host: only there it can say what its migrations do."""
    async with hold(host, place, "migrate", output.say) as fence:
        settings = await settings_there(host, place)
        with stages.stage(host.describe(), "fetch the image", keep=False):
            return await fetch(fence, settings, image)


@contextlib.asynccontextmanager
async def _counted(fence: Fence, plan: Pending) -> AsyncIterator[None]:
    """Record in the release that serves what is run ahead of it: a rollback counts what releases ran.

    Before it runs, as a killed run must not leave what nobody counts.
    """
    state = await read_state(fence.host, fence.place)
    if state.active is None:
        yield
        return
    serving, coming = await read_release(fence.host, fence.place, state.active.release), recorded(plan)
    await record(fence, replace(serving, migrations=(*serving.migrations, *coming)))
    try:
        yield
    except WoprError:
        there = await ran(fence, fence.place, coming)
        await record(fence, replace(serving, migrations=(*serving.migrations, *there)))
        raise


async def _image_of(host: Host, place: Place) -> str:
    state = await read_state(host, place)
    if state.active is None:
        raise Refused(
            f"Nothing was ever released in {place.dir} on {host.describe()}.",
            remedy="Give --image, or release first: wopr deploy",
        )
    return (await read_release(host, place, state.active.release)).platform


def _done(plan: Pending, *, applied: bool) -> dict[str, Any]:
    return {"from": plan.at, "to": plan.head, "applied": applied, "plan": plan.document()}
