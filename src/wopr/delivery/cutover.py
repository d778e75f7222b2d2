"""A release comes in and the one before it leaves: the same steps for a deploy and for a rollback.

Each step is in the journal, and each may be the last: what is half done is abandoned before the commit point, which is
the replacement of `state.json`, and finished after it. The release that serves is never touched before the new one is
ready, and is kept, stopped, when it has left: a rollback then only starts its containers.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from wopr.delivery import answers, commands, quarantine
from wopr.delivery.answers import Counts
from wopr.delivery.context import Context
from wopr.delivery.errors import HostFailed
from wopr.delivery.failures import end_failures, tell_failure, where
from wopr.delivery.look import unready
from wopr.delivery.observe import tried_patiently, wait_ready, watch
from wopr.delivery.place import Slot, other
from wopr.delivery.release import (
    Judgement,
    Part,
    Release,
    Snapshot,
    State,
    read_release,
    read_snapshot,
    read_state,
    record,
    record_new,
    write_state,
)
from wopr.delivery.slots import COMPOSE_SECONDS, Ahead, drain, empty, fill, retire, write_environment
from wopr.delivery.went_back import ROLLBACK, settle_rollback

READY_SECONDS = 6.0
# On a slow machine a release may take some times as long as the one before it; the first one keeps nobody waiting.
READY_TIMES = 3.0
FIRST_READY_SECONDS = 60.0
OBSERVE_SECONDS = 20.0
CERTIFICATES = "certificates"
# What the release before gets to leave when it must come back.
HURRY_SECONDS = 1


@dataclass(frozen=True)
class Limits:
    """How long a release may take to become ready (0: as long as the one before it lets expect), and for how long it is
    observed, in seconds."""

    ready_seconds: float = 0.0
    observe_seconds: float = OBSERVE_SECONDS

    def patience(self, before: Release | None) -> float:
        """Seconds within which a release must be ready, by what the one before it took."""
        if self.ready_seconds:
            return self.ready_seconds
        return max(READY_SECONDS, READY_TIMES * before.ready_seconds) if before else FIRST_READY_SECONDS


@dataclass(frozen=True)
class Verdict:
    """How it ended: `good`, `bad` or `unchanged`. `serving` is the release that serves now, whatever was tried."""

    verdict: str
    release: int
    serving: int | None
    platform: str
    reason: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return self.verdict != Judgement.BAD


@dataclass(frozen=True)
class Incoming:
    """A release that comes in. `prepare` does what must be done before its containers start (migrations); `ahead` are
    the containers that are being created for it."""

    release: Release
    snapshot: Snapshot
    limits: Limits
    prepare: Callable[[], Awaitable[None]] | None = None
    ahead: Ahead | None = None


class Failed(Exception):
    """The release that comes in is bad; the text says why. The one before it was not touched."""


async def cut_over(ctx: Context, incoming: Incoming) -> Verdict:
    """Bring a release in; afterwards it serves, or the one before it does and the verdict says why."""
    began = time.monotonic()
    state = await read_state(ctx.host, ctx.place)
    slot: Slot = other(state.active.slot) if state.active else "blue"
    part = Part(incoming.release.number, slot)
    # Migrations are recorded as they run: those that are only planned would stay in a release that is given up.
    recording = record_new(ctx.fence, replace(incoming.release, migrations=()), incoming.snapshot)
    before, _ = await asyncio.gather(answers.before(ctx.host, ctx.place), recording)
    ctx.step("recorded", release=part.release, slot=slot)
    await write_state(ctx.fence, replace(state, candidate=part))
    ctx.step("candidate")
    created = await incoming.ahead.done() if incoming.ahead else False
    try:
        incoming = await _start(ctx, incoming, state, part, created=created)
    except (Failed, HostFailed) as error:
        if isinstance(error, HostFailed) and error.says_nothing:
            await _clear(ctx, part.slot)
            raise  # it was not judged: the next run writes down that it was given up, and it may be tried again
        reason = error.message if isinstance(error, HostFailed) else str(error)
        return await _abandon(ctx, incoming, state, reason, began)
    # The way is looked at meanwhile: it is the same for whichever slot is ready.
    committing = write_state(ctx.fence, State(active=part, leaving=state.active))
    reason, _ = await asyncio.gather(tried_patiently(ctx.host, commands.trials(ctx.place)), committing)
    ctx.step("committed", release=part.release)
    if reason := reason or await _prove(ctx, incoming, state.active, part, before):
        if state.active:
            return await _return(ctx, incoming, state.active, replace(part, reason=reason), began)
        await write_state(ctx.fence, State(active=replace(part, reason=reason)))  # as on a way back
        ctx.step("nothing to return to", reason=reason)
        return await _judge(ctx, _bad(incoming, reason, began), None)
    good = incoming.release.judged(Judgement.GOOD, "", round(time.monotonic() - began, 3))
    verdict = await _judge(ctx, good, None, left=state.active)
    if state.active:
        await retire(ctx, state.active.slot)
    await write_state(ctx.fence, State(active=part))
    ctx.step("finished", serving=part.release)
    return verdict


async def turn_away(ctx: Context, release: Release, snapshot: Snapshot, reason: str) -> Verdict:
    """A release that can't even be started is recorded, quarantined and told like any bad one."""
    state = await read_state(ctx.host, ctx.place)
    await record_new(ctx.fence, release, snapshot)
    return await _judge(ctx, release.judged(Judgement.BAD, reason), state.active)


async def configure(ctx: Context, snapshot: Snapshot) -> bool:
    """Give Caddy this configuration unless it has it; whether it was another one. HostFailed when it is refused."""
    wanted = snapshot.files["Caddyfile"]
    if await ctx.host.read(ctx.place.caddy_live) == wanted:
        return False
    await ctx.fence.must(commands.caddy_check(ctx.place), input=wanted)
    await ctx.fence.write(ctx.place.caddy_live, wanted, 0o644)
    await ctx.fence.must(commands.caddy_load(ctx.place))
    return True


async def services(ctx: Context, part: Part) -> None:
    """Start PostgreSQL, Caddy and what fetches its certificate as a release that was there before defines them.

    What lies in `stack.env` may be of another one that was given up.
    """
    release = await read_release(ctx.host, ctx.place, part.release)
    snapshot = await read_snapshot(ctx.host, ctx.place, part.release)
    await write_environment(ctx, release, snapshot, part.slot)
    await start_services(ctx, part.release, snapshot)


async def start_services(ctx: Context, number: int, snapshot: Snapshot) -> None:
    """Start what stands around the slots from the environment that was written; unchanged ones stay."""
    file = ctx.place.snapshot(number, "compose.yaml")
    if await ctx.host.read(ctx.place.caddy_live) is None:
        await ctx.fence.write(ctx.place.caddy_live, snapshot.files["Caddyfile"], 0o644)
    fetched = commands.by_dns(commands.parsed_env(snapshot.files["env"].decode("utf-8", "replace")))
    more = (CERTIFICATES,) if fetched else ()
    if not fetched:
        await ctx.fence.run(("docker", "rm", "-f", ctx.place.container(CERTIFICATES)))
    up = commands.up_services(ctx.compose, ctx.place, file, "postgres", "caddy", *more)
    await ctx.fence.must(up, timeout=COMPOSE_SECONDS)


async def _start(ctx: Context, incoming: Incoming, state: State, part: Part, *, created: bool) -> Incoming:
    """Everything up to the commit point; the release with the time it took. Failed, or HostFailed, with the reason."""
    release, snapshot = incoming.release, incoming.snapshot
    serving = await read_release(ctx.host, ctx.place, state.active.release) if state.active else None
    if serving is None or not serving.same_around(release):
        await write_environment(ctx, release, snapshot, part.slot)
        file = ctx.place.snapshot(release.number, "compose.yaml")
        await ctx.fence.must(commands.compose_config(ctx.compose, ctx.place, file))
        ctx.step("configuration valid")
        await start_services(ctx, release.number, snapshot)
        ctx.step("services up")
    if incoming.prepare:
        await incoming.prepare()
    await fill(ctx, release, snapshot, part.slot, created=created)
    began = time.monotonic()
    if reason := await wait_ready(ctx.host, ctx.place, part.slot, incoming.limits.patience(serving)):
        raise Failed(reason)
    took = round(time.monotonic() - began, 3)
    ctx.step("ready", slot=part.slot, seconds=took)
    trying = tried_patiently(ctx.host, commands.trials_of(ctx.place, part.slot))
    reason, configured = await asyncio.gather(trying, configure(ctx, snapshot))
    if configured:
        ctx.step("Caddy configured")
    if reason:
        raise Failed(f"ready, but {reason}")
    return replace(incoming, release=replace(release, ready_seconds=took))


async def _prove(ctx: Context, incoming: Incoming, before: Part | None, part: Part, counted: Counts) -> str:
    """The new release takes over: the old one is drained as requests come through, and it is observed."""
    ctx.step("serving", release=part.release)
    # Long streams may take their time to end; the new release is looked at meanwhile.
    draining = asyncio.create_task(_drained(ctx, before)) if before else None
    try:
        reason = await watch(ctx.host, ctx.place, part.slot, incoming.limits.observe_seconds, counted)
        if draining and reason and not draining.done():
            await _hurry(ctx, before)
        if draining:
            await draining
    finally:
        if draining:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
    ctx.step("observed", seconds=incoming.limits.observe_seconds, reason=reason)
    return reason


async def _hurry(ctx: Context, part: Part | None) -> None:
    """The one before must come back at once, and only what has left can begin anew. Answers that are cut by that go on
    by themselves; until then everybody else would meet the bad release."""
    if part:
        await ctx.fence.run(commands.stop(ctx.place.slot_containers(part.slot), HURRY_SECONDS), timeout=COMPOSE_SECONDS)
        ctx.step("told to hurry", slot=part.slot)


async def _drained(ctx: Context, part: Part) -> None:
    """Drain the one before. What does not come about now is left to its retirement, which does it again."""
    try:
        await drain(ctx, part.slot)
    except HostFailed:
        return
    ctx.step("drained", slot=part.slot)


async def _abandon(ctx: Context, incoming: Incoming, state: State, reason: str, began: float) -> Verdict:
    """The release never served. Its verdict first, so that it is known at once; then what is left of it goes."""
    ctx.step("refused", reason=reason)
    recorded = await read_release(ctx.host, ctx.place, incoming.release.number)  # with the migrations that really ran
    incoming = replace(incoming, release=recorded)
    verdict = await _judge(ctx, _bad(incoming, reason, began), state.active)
    slot: Slot = other(state.active.slot) if state.active else "blue"
    await _clear(ctx, slot)
    ctx.step("removed", slot=slot)
    if state.active:
        serving = await read_snapshot(ctx.host, ctx.place, state.active.release)
        await _as_before(ctx, incoming.release, state.active, serving)
    await write_state(ctx.fence, replace(state, candidate=None))
    ctx.step("abandoned", serving=state.active.release if state.active else None)
    return verdict


async def _clear(ctx: Context, slot: Slot) -> None:
    """Remove what never served by our word."""
    if not await unready(ctx.host, ctx.place, slot):
        await drain(ctx, slot)  # it was ready, so Caddy may have sent it requests
    await ctx.fence.must(commands.remove_slot(ctx.place, slot))


async def _return(ctx: Context, incoming: Incoming, back: Part, bad: Part, began: float) -> Verdict:
    """The release served and was bad: the one before it comes back, and only then does the bad one leave.

    Why is written down before: it may be ready all the same, and a run after a kill would keep it.
    """
    await write_state(ctx.fence, State(active=bad, leaving=back))
    ctx.step("going back", reason=bad.reason, to=back.release)
    release = await read_release(ctx.host, ctx.place, back.release)
    snapshot = await read_snapshot(ctx.host, ctx.place, back.release)
    started = await ctx.fence.run(commands.start(ctx.place.slot_containers(back.slot)))
    patience = incoming.limits.patience(release)
    still = await wait_ready(ctx.host, ctx.place, back.slot, patience) if started.ok else "gone"
    if still:
        await fill(ctx, release, snapshot, back.slot)
        await wait_ready(ctx.host, ctx.place, back.slot, patience)
    ctx.step("ready again", release=back.release)
    await _as_before(ctx, incoming.release, back, snapshot)
    await write_state(ctx.fence, State(active=back, leaving=bad))
    ctx.step("committed", release=back.release)
    verdict = await _judge(ctx, _bad(incoming, bad.reason, began), back)
    await empty(ctx, bad.slot)
    await write_state(ctx.fence, State(active=back))
    ctx.step("back", serving=back.release)
    return verdict


async def _as_before(ctx: Context, failed: Release, back: Part, snapshot: Snapshot) -> None:
    """Undo what a failed release changed beside its slot: services and Caddy are as the serving one defines them."""
    serving = await read_release(ctx.host, ctx.place, back.release)
    if serving.same_around(failed):
        await write_environment(ctx, serving, snapshot, back.slot)
        return
    await services(ctx, back)
    await configure(ctx, snapshot)


async def _judge(ctx: Context, judged: Release, serving: Part | None, left: Part | None = None) -> Verdict:
    """Settle what became of the release that came in. The one before it is `serving` where that serves now, and `left`
    where it does so no more."""
    await settle(ctx, judged, serving, left.release if left else None)
    now = judged if judged.verdict == Judgement.GOOD else None
    if judged.verdict == Judgement.BAD and serving:
        now = await read_release(ctx.host, ctx.place, serving.release)
    ctx.step("judged", verdict=str(judged.verdict), reason=judged.reason)
    number, platform = (now.number, now.platform) if now else (None, "")
    return Verdict(str(judged.verdict), judged.number, number, platform, judged.reason, judged.seconds)


def _bad(incoming: Incoming, reason: str, began: float) -> Release:
    return incoming.release.judged(Judgement.BAD, reason, round(time.monotonic() - began, 3))


async def settle(ctx: Context, judged: Release, serving: Part | None, left: int | None = None) -> None:
    """Record a verdict. A bad release is quarantined and opens an incident, a good one ends those of earlier bad ones.
    One that the operator went back to, from release `left`, brings its files with it.

    The record comes last: after a kill the next run settles what has none, and all of this may be done twice.
    """
    if judged.verdict == Judgement.BAD:
        await _condemn(ctx, judged, serving)
    elif judged.verdict == Judgement.GOOD:
        if judged.trigger == ROLLBACK and left:
            await settle_rollback(ctx, left, judged.number)
        end_failures(ctx.journal, where(ctx), judged)
    await record(ctx.fence, judged)


async def _condemn(ctx: Context, bad: Release, serving: Part | None) -> None:
    """Quarantine a release that failed and open an incident. One whose content serves now is not at fault itself.

    The quarantine comes first: by it the next run knows that the verdict was bad.
    """
    now = await read_release(ctx.host, ctx.place, serving.release) if serving else None
    if now is None or not now.same_content(bad):
        await quarantine.add(ctx.fence, bad, bad.reason)
    leaving = (await read_state(ctx.host, ctx.place)).leaving  # it is named there only where it had come in
    served = leaving is not None and leaving.release == bad.number
    tell_failure(ctx.journal, where(ctx), bad, serving, served=served)
