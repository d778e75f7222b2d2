"""Finish or undo what a killed deployer left, as the plan says. Every run begins with it."""

from wopr.delivery import commands
from wopr.delivery.context import Context
from wopr.delivery.cutover import Limits, condemn, configure, services
from wopr.delivery.errors import HostFailed
from wopr.delivery.look import observe
from wopr.delivery.observe import wait_ready
from wopr.delivery.plan import Action, Become, Configure, Remove, Retire, Services, Settle, Start, plan
from wopr.delivery.release import Judgement, read_release, read_snapshot, read_state, record, write_state
from wopr.delivery.slots import empty, fill, retire


async def recover(ctx: Context) -> list[Action]:
    """Bring the host to where one release serves and nothing else runs; what was done."""
    state = await read_state(ctx.host, ctx.place)
    actions = plan(state, await observe(ctx.host, ctx.place, state))
    await ctx.fence.run(commands.remove_files(ctx.place.registry_config))
    for action in actions:
        await _execute(ctx, action)
        judged = {"release": action.release, "verdict": str(action.verdict)} if isinstance(action, Settle) else {}
        ctx.step(f"recovered: {type(action).__name__.lower()}", **judged)
    return actions


async def _execute(ctx: Context, action: Action) -> None:
    match action:
        case Services(number):
            await services(ctx, number)
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
        case Settle(number, verdict, reason):
            await _settle(ctx, number, verdict, reason)


async def _settle(ctx: Context, number: int, verdict: Judgement, reason: str) -> None:
    try:
        release = await read_release(ctx.host, ctx.place, number)
    except HostFailed:
        return  # killed between the state and the record of something that never began
    await record(ctx.fence, release.judged(verdict, reason))
    if verdict is Judgement.BAD:
        state = await read_state(ctx.host, ctx.place)
        await condemn(ctx, release, reason, state.active)
