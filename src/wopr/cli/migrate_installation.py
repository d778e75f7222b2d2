"""`wopr migrate --dir`: the migrations of an installation on a host, with a verified dump before anything changes."""

import asyncio
from dataclasses import asdict
from typing import Any

from wopr.cli import output
from wopr.cli.progress import Progress
from wopr.delivery.dump import dump_verified
from wopr.delivery.errors import Refused
from wopr.delivery.hosts import Host, host_of
from wopr.delivery.lock import hold
from wopr.delivery.migrate import Pending, guard, pending, run_migrations
from wopr.delivery.place import DIR, Place
from wopr.delivery.release import read_release, read_state


def migrate_installation(
    folder: str, machine: str, image: str, stages: Progress, *, allow_destructive: bool, dry_run: bool
) -> dict[str, Any]:
    """Judge what is pending, refuse what would do harm, dump, migrate; what was done, for people and programs."""
    host, place = host_of(machine), Place(dir=folder or DIR)
    run = _migrate(host, place, image, stages, _Wish(allow_destructive, dry_run))
    try:
        return asyncio.run(run)
    except Refused as refused:
        output.fail(refused.message, remedy=refused.remedy, code=output.REFUSED)


class _Wish:
    def __init__(self, allow_destructive: bool, dry_run: bool) -> None:
        self.allow_destructive = allow_destructive
        self.dry_run = dry_run


async def _migrate(host: Host, place: Place, image: str, stages: Progress, wish: _Wish) -> dict[str, Any]:
    try:
        chosen = image or await _image_of(host, place)
        with stages.stage(host.describe(), "read what is pending", keep=False):
            plan = await pending(host, place, chosen)
        if plan.ahead or not plan.migrations:
            return {"from": plan.at, "to": plan.at, "applied": False}
        if wish.dry_run:
            return _done(plan, applied=False)
        guard(plan, allow_destructive=wish.allow_destructive)
        return await _apply(host, place, chosen, stages, plan)
    finally:
        await host.close()


async def _apply(host: Host, place: Place, image: str, stages: Progress, plan: Pending) -> dict[str, Any]:
    name = host.describe()
    async with hold(host, place, "migrate") as fence:
        with stages.stage(name, "dump the database and restore the dump", keep=False):
            dump = await dump_verified(fence, place)
        with stages.stage(name, f"migrate to {plan.head}", keep=False):
            # What is destructive was judged above, on this host's own types, and is not judged again inside.
            await run_migrations(fence, place, image, allow_destructive=True)
    return _done(plan, applied=True) | {"dump": asdict(dump)}


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
