"""What follows when an older release serves again because the operator wanted it: done before that is written down as
good, so that a run after a kill does what is left of it. Each part may be done twice."""

from wopr.delivery import failures, quarantine
from wopr.delivery.context import Context
from wopr.delivery.release import Judgement, Release, Snapshot, read_release, read_snapshot, record
from wopr.ops.incidents import all_incidents, open_incident, resolve_incident

ROLLBACK = "rollback"


async def settle_rollback(ctx: Context, left: int, number: int) -> None:
    """Release `number` serves, and release `left` no more: that one is not tried again, and the operator's files are
    those of the one that serves."""
    current, release = await read_release(ctx.host, ctx.place, left), await read_release(ctx.host, ctx.place, number)
    why = release.reason or f"the operator went back to release {release.restores}"
    await record(ctx.fence, current.judged(Judgement.ROLLED_BACK, why))
    if not current.same_content(release):
        await quarantine.add(ctx.fence, current, why)
    await _restore_files(ctx, current, await read_snapshot(ctx.host, ctx.place, number))
    ctx.step("files restored", from_release=release.restores)
    _tell(ctx, current, release, why)


async def _restore_files(ctx: Context, current: Release, snapshot: Snapshot) -> None:
    """Write the operator's files as the older release had them. Edits that were never released are put beside them."""
    place = ctx.place
    released = await read_snapshot(ctx.host, place, current.number)
    for name, path in (("env", place.env), ("compose.yaml", place.compose), ("Caddyfile", place.caddyfile)):
        mode = 0o600 if name == "env" else 0o644
        there = await ctx.host.read(path)
        if there and there not in (snapshot.files[name], released.files[name]):
            await ctx.fence.write(f"{path}.unreleased", there, mode)
            ctx.step("kept what was never released", file=f"{path}.unreleased")
        if there != snapshot.files[name]:
            await ctx.fence.write(path, snapshot.files[name], mode)


def _tell(ctx: Context, current: Release, release: Release, why: str) -> None:
    """One incident, over already. A release is gone back from once: if there is one of it, this was done before."""
    key = failures.key(failures.where(ctx), current.number)
    facts = {
        "key": key,
        "release": current.number,
        "platform": current.platform,
        "reason": why,
        "serving": release.number,
    }
    title = f"Release {current.number} was rolled back to release {release.restores}: {why}"[:200]
    known = next((one.id for one in all_incidents(ctx.journal) if one.key == key), "")
    incident = known or open_incident(ctx.journal, title, "SEV3", release.created_by or "operator", facts)
    resolve_incident(ctx.journal, incident, f"Release {release.restores} serves again, as release {release.number}.")
