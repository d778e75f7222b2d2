"""`rollback`: a release of before comes back, with its images, its configuration and its environment.

It needs no registry: the images are on the host. What a newer release did to the database stays; where the older one
could not run on that, the rollback is refused and says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from wopr.delivery import commands
from wopr.delivery.api_journal import take_in
from wopr.delivery.context import ASKED, Context, Tell
from wopr.delivery.cutover import Incoming, Limits, Verdict, cut_over
from wopr.delivery.deploy import CONTAINER_RUNTIMES, find_compose
from wopr.delivery.errors import HostFailed, Refused, refuse_away
from wopr.delivery.hosts import Host
from wopr.delivery.lock import hold
from wopr.delivery.migrate import fatal
from wopr.delivery.place import Place
from wopr.delivery.recover import recover
from wopr.delivery.release import (
    Judgement,
    Part,
    Release,
    State,
    previous_good,
    read_release,
    read_releases,
    read_snapshot,
    read_state,
)
from wopr.delivery.setup import settings_there
from wopr.delivery.sight import record_sight
from wopr.delivery.went_back import ROLLBACK
from wopr.ops.journal import Journal

ROLLBACK_OBSERVE_SECONDS = 0.0
NO_DATABASE_WORD = "--despite-migrations"


@dataclass(frozen=True)
class Back:
    """What is wanted: the release `to`, or the newest good one before what serves now."""

    to: int | None = None
    reason: str = ""
    by: str = ""
    despite_migrations: bool = False
    limits: Limits = field(default_factory=lambda: Limits(observe_seconds=ROLLBACK_OBSERVE_SECONDS))


@dataclass(frozen=True)
class Proposal:
    """What a rollback would do: from which release to which, and what of the database stays as it is."""

    current: Release
    target: Release
    stays: Sequence[str]
    breaks: Sequence[str]


async def propose(host: Host, place: Place, to: int | None) -> Proposal:
    """What a rollback would do; reads only. Refused when there is nothing to go back to."""
    active = await _active(host, place)
    releases = await read_releases(host, place)
    current = await read_release(host, place, active.release)
    target = _target(releases, current, to)
    stays, breaks = database_left(releases, target)
    return Proposal(current, target, stays, breaks)


async def _active(host: Host, place: Place) -> Part:
    """What serves; Refused when nothing does."""
    state = await read_state(host, place)
    if state.active is None:
        raise Refused("Nothing is released here.", remedy="wopr deploy")
    return state.active


def database_left(releases: Sequence[Release], target: Release) -> tuple[list[str], list[str]]:
    """The migrations that were run after a release, as lines: those that it can live with, and those that break it.

    Every later release counts, whatever became of it: a migration stays even when its release failed. So does what
    `wopr migrate` ran ahead of the release itself: it is recorded there, and is newer than what its image has.
    """
    stays: list[str] = []
    breaks: list[str] = []
    for release in releases:
        for migration in release.migrations if release.number >= target.number else ():
            if release.number == target.number and migration["revision"] <= target.migration_head:
                continue
            line = f"{migration['revision']} ({migration['kind']}) of release {release.number}"
            known = breaks if fatal(migration) else stays
            if not any(migration["revision"] in other.split() for other in known):
                known.append(line)
    return stays, breaks


@dataclass(frozen=True)
class Went:
    """What a rollback did, and how it ended."""

    proposal: Proposal
    verdict: Verdict


async def rollback(host: Host, place: Place, journal: Journal, back: Back, tell: Tell) -> Went:
    """Go back. Refused when there is nothing to go back to, or the database would not let it run: nothing changed."""
    await _active(host, place)  # or a folder and a lock would be made where nothing is
    compose = await find_compose(host)
    async with hold(host, place, "rollback", partial(tell, ASKED)) as fence:
        knowing = journal.knowing(await settings_there(host, place))  # the reason is somebody's words
        with knowing.operation("rollback", to=back.to, why=back.reason, by=back.by, host=host.describe()) as operation:
            ctx = Context(fence, compose, operation, tell, {})
            ctx.step("locked", token=fence.token, **fence.taken)
            went = await go_back(ctx, back)
            verdict = went.verdict
            operation.outcome.update(verdict=verdict.verdict, reason=verdict.reason, seconds=verdict.seconds)
            if not verdict.good:
                raise HostFailed(
                    f"The rollback failed and release {verdict.serving} still serves: {verdict.reason}",
                    remedy="wopr releases; wopr rollback --to N",
                )
    await take_in(host, place, journal)
    return went


async def go_back(ctx: Context, back: Back) -> Went:
    """As `rollback`, with the lock in hand and an operation begun; a failure is a verdict.

    Where the deployer of the same rollback was stopped after the commit point, this only finishes it: whoever says it
    again means one step back, not two.
    """
    left = await read_state(ctx.host, ctx.place)
    await recover(ctx)
    if done := await _finished(ctx, left, back.to):
        return done
    proposal = await propose(ctx.host, ctx.place, back.to)
    current, target = proposal.current, proposal.target
    _guard(proposal, back)
    snapshot = await read_snapshot(ctx.host, ctx.place, target.number)
    settings = commands.parsed_env(snapshot.files["env"].decode("utf-8", "replace"))
    ctx = replace(ctx, settings=settings)
    ctx.operation.hide(settings)
    await _have_images(ctx, target)
    numbers = [one.number for one in await read_releases(ctx.host, ctx.place)]
    release = replace(
        target,
        number=max(numbers) + 1,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        created_by=back.by,
        trigger=ROLLBACK,
        verdict=Judgement.PENDING,
        reason=back.reason,  # until it is judged: why, for whoever comes after a kill
        seconds=0.0,
        restores=target.restores or target.number,
        migrations=(),
    )
    ctx.operation.outcome.update(
        release=release.number,
        platform=release.platform,
        bot=release.bot,
        previous=current.number,
        previous_platform=current.platform,
        restores=target.number,
        trigger=ROLLBACK,
        database_stays=[*proposal.stays, *proposal.breaks],
    )
    ctx.step("checked", leaves=current.number, restores=target.number, database_stays=list(proposal.stays))
    verdict = await cut_over(ctx, Incoming(release, snapshot, back.limits))
    if verdict.good:
        await record_sight(ctx)
    return Went(proposal, verdict)


async def _finished(ctx: Context, left: State, to: int | None) -> Went | None:
    """The rollback that an earlier run did not end, where what it brought back serves now. `left` is the state in which
    that run left the host; when it was killed at the very end, the journal alone knows."""
    state = await read_state(ctx.host, ctx.place)
    if state.active is None or state.candidate or left.active is None or left.active.release != state.active.release:
        return None
    now = await read_release(ctx.host, ctx.place, state.active.release)
    gone = left.leaving.release if left.leaving else _unended(ctx, now.number)
    if now.trigger != ROLLBACK or now.verdict != Judgement.GOOD or now.restores is None or gone is None:
        return None
    releases = await read_releases(ctx.host, ctx.place)
    found = {one.number: one for one in releases}
    if to is not None and (to not in found or not found[to].same_content(now)):
        return None
    proposal = Proposal(found[gone], found.get(now.restores, now), *database_left(releases, now))
    ctx.operation.outcome.update(release=now.number, platform=now.platform, restores=now.restores, trigger=ROLLBACK)
    ctx.step("was done already", serving=now.number)
    return Went(proposal, Verdict("good", now.number, now.number, now.platform, "", now.seconds))


def _unended(ctx: Context, number: int) -> int | None:
    """The release that the last rollback left for release `number`, when it did all and was stopped before it could
    say so."""
    rollbacks = [one for one in ctx.journal.read() if one.name == ROLLBACK and one.operation != str(ctx.operation.id)]
    last = [one for one in rollbacks if one.operation == rollbacks[-1].operation]
    steps = {one.data.get("step"): one.data for one in last if one.phase == "step"}
    if any(one.phase in ("end", "fail") for one in last) or steps.get("finished", {}).get("serving") != number:
        return None
    return steps["checked"].get("leaves")


def _target(releases: Sequence[Release], current: Release, to: int | None) -> Release:
    if to is None:
        found = previous_good(releases, current)
        if found is None:
            raise Refused("There is no good release before the one that serves.", remedy="wopr releases")
        return found
    named = next((one for one in releases if one.number == to), None)
    if named is None:
        raise Refused(f"There is no release {to}.", remedy="wopr releases")
    if named.verdict not in (Judgement.GOOD, Judgement.ROLLED_BACK):
        raise Refused(f"Release {to} never served well: {named.verdict}: {named.reason}", remedy="wopr releases")
    if named.same_content(current):
        raise Refused(f"Release {to} is what serves now, as release {current.number}.", remedy="wopr releases")
    return named


def _guard(proposal: Proposal, back: Back) -> None:
    if not proposal.breaks or back.despite_migrations:
        return
    raise Refused(
        f"Release {proposal.target.number} can't run on the database as later releases left it; nothing was changed:"
        + "".join(f"\n  {line}" for line in proposal.breaks),
        code="database_ahead",
        remedy=f"Restore the dump taken before it (in dumps/), or, when you know that it runs: {NO_DATABASE_WORD}",
    )


async def _have_images(ctx: Context, target: Release) -> None:
    """The images are on the host; the registry is asked for nothing."""
    bots = [(target.bot, "--bot ")] if ctx.settings.get("BOT_RUNTIME") in CONTAINER_RUNTIMES else []
    for image, word in ((target.platform, ""), *bots):
        there = await ctx.host.run(commands.inspect_image(image))
        refuse_away(there.complaint, ctx.host.describe())
        if not there.ok:
            raise Refused(
                f"{image} of release {target.number} is no longer on {ctx.host.describe()}.",
                remedy=f"Release it as a new one: wopr deploy {word}{image}",
            )
