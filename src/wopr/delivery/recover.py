"""Finish or undo what a killed deployer left, as the plan says. Every run begins with it."""

import asyncio
from dataclasses import replace

from wopr.delivery import commands
from wopr.delivery.commands import parsed_env
from wopr.delivery.context import Context
from wopr.delivery.cutover import FIRST_READY_SECONDS, Limits, configure, services, settle
from wopr.delivery.look import observe
from wopr.delivery.migrate import CONTAINER as MIGRATOR
from wopr.delivery.migrate import ran
from wopr.delivery.observe import wait_ready
from wopr.delivery.place import other
from wopr.delivery.plan import Action, Become, Configure, Observed, Remove, Retire, Services, Settle, Start, plan
from wopr.delivery.release import Judgement, Part, State, read_release, read_snapshot, read_state, write_state
from wopr.delivery.slots import empty, fill, retire, write_environment


async def recover(ctx: Context) -> list[Action]:
    """Bring the host to where one release serves and nothing else runs; what was done."""
    state = await read_state(ctx.host, ctx.place)
    left = commands.remove_files(ctx.place.registry_config)
    seen, _ = await asyncio.gather(_seen(ctx, state), ctx.fence.run(left))
    actions = plan(state, seen)
    for action in actions:
        await _execute(ctx, action)
        judged = {"release": action.release, "verdict": str(action.verdict)} if isinstance(action, Settle) else {}
        ctx.step(f"recovered: {type(action).__name__.lower()}", **judged)
    await _environment(ctx, (await read_state(ctx.host, ctx.place)).active if actions else state.active)
    return actions


async def _environment(ctx: Context, serving: Part | None) -> None:
    """What compose interpolates is of the release that serves again, where a later one was being prepared beside it."""
    given = parsed_env((await ctx.host.read(ctx.place.stack_env) or b"").decode("utf-8", "replace"))
    beside = given.get(f"WOPR_{other(serving.slot).upper()}_RELEASE", "") if serving else ""
    if serving is None or not beside.isdecimal() or int(beside) <= serving.release:
        return
    release = await read_release(ctx.host, ctx.place, serving.release)
    await write_environment(ctx, release, await read_snapshot(ctx.host, ctx.place, serving.release), serving.slot)
    ctx.step("recovered: environment", release=serving.release)


async def _seen(ctx: Context, state: State) -> Observed:
    """What is there. Where neither of two releases is ready, the machine may only just have booted: the one that
    came in is waited for, before it is taken back for that."""
    seen = await observe(ctx.host, ctx.place, state)
    active, leaving = state.active, state.leaving
    if active and leaving and seen.whole(active) and not seen.serves(active) and not seen.serves(leaving):
        await wait_ready(ctx.host, ctx.place, active.slot, FIRST_READY_SECONDS)
        seen = await observe(ctx.host, ctx.place, state)
    return seen


async def _execute(ctx: Context, action: Action) -> None:
    match action:
        case Services(part):
            await services(ctx, part)
        case Start(part):
            release = await read_release(ctx.host, ctx.place, part.release)
            snapshot = await read_snapshot(ctx.host, ctx.place, part.release)
            await fill(ctx, release, snapshot, part.slot)
            if reason := await wait_ready(ctx.host, ctx.place, part.slot, Limits().patience(release)):
                ctx.step("not ready", release=part.release, reason=reason)  # a release that mends it must be possible
        case Remove(slot):
            await empty(ctx, slot)
        case Retire(slot):
            await retire(ctx, slot)
        case Configure(number):
            await configure(ctx, await read_snapshot(ctx.host, ctx.place, number))
        case Become(state):
            await write_state(ctx.fence, state)
        case Settle():
            await _settle(ctx, action)


async def _settle(ctx: Context, action: Settle) -> None:
    number = action.release
    if await ctx.host.read(ctx.place.release(number)) is None:
        return  # killed between the state and the record of something that never began
    release = await read_release(ctx.host, ctx.place, number)
    if action.verdict == Judgement.ABANDONED and release.migrations:
        # A container that still migrates is ended: what it had not committed is rolled back.
        await ctx.fence.run(("docker", "rm", "-f", "-v", ctx.place.container(MIGRATOR)))
        release = replace(release, migrations=await ran(ctx.fence, ctx.place, release.migrations))
    active = (await read_state(ctx.host, ctx.place)).active
    serving = active if active and active.release != number else None
    await settle(ctx, release.judged(action.verdict, action.reason), serving, action.left)
