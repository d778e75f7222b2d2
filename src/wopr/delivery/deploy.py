"""`deploy`: one release from its name to its verdict, on this machine or another.

lock → what an earlier run left → checks → images by digest → does it fit → migrations judged, database dumped →
the idle slot → readiness → commit → drain → observation → verdict. A bad release never stops the old one.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from wopr.core.errors import WoprError
from wopr.delivery import commands, images_on_host, quarantine, setup
from wopr.delivery.api_journal import take_in
from wopr.delivery.commands import PLUGIN, STANDALONE, Compose
from wopr.delivery.context import ASKED, Context, Tell
from wopr.delivery.cutover import Failed, Incoming, Limits, Verdict, cut_over, start_services, turn_away
from wopr.delivery.dump import dump_verified
from wopr.delivery.env_look import refuse_bad_env
from wopr.delivery.errors import HostFailed, Refused
from wopr.delivery.hosts import Host, Output
from wopr.delivery.lock import hold
from wopr.delivery.migrate import Pending, fatal, guard, pending, ran, recorded, run_migrations
from wopr.delivery.place import Place
from wopr.delivery.plan import Services, Start
from wopr.delivery.recover import recover
from wopr.delivery.release import (
    Judgement,
    Release,
    Snapshot,
    read_inputs,
    read_release,
    read_releases,
    read_state,
    record,
    record_new,
)
from wopr.delivery.sight import record_sight
from wopr.delivery.slots import creating_ahead, write_environment
from wopr.ops.journal import Journal

PLATFORM_IMAGE = "ghcr.io/wopr-network/wopr-platform:latest"
BOT_IMAGE = "ghcr.io/wopr-network/wopr-bot:latest"
FREE_KILOBYTES_MIN = 1024 * 1024
CONTAINER_RUNTIMES = ("docker", "swarm")


@dataclass(frozen=True)
class Request:
    """What is wanted. Without `image` those that run stay: then a changed `.env` or configuration is what is new."""

    image: str = ""
    bot: str = ""
    trigger: str = "operator"
    by: str = ""
    allow_destructive: bool = False
    despite_quarantine: bool = False
    limits: Limits = field(default_factory=Limits)
    settings: Mapping[str, str] | None = None  # written into `.env` first


class _Bad(Exception):
    """Ends the operation in the journal as failed; carries the verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(f"release {verdict.release} is bad: {verdict.reason}")
        self.verdict = verdict


async def deploy(host: Host, place: Place, journal: Journal, request: Request, tell: Tell) -> Verdict:
    """Release. Locked or Refused when a check says no, HostFailed when the host does not do its part: then nothing was
    changed. A release that was tried and failed is a verdict, not an error."""
    for image in filter(None, (request.image, request.bot)):
        images_on_host.refuse_no_name(image)
    compose = await find_compose(host)
    async with hold(host, place, "deploy", partial(tell, ASKED)) as fence:
        data = {"image": request.image, "trigger": request.trigger, "by": request.by, "host": host.describe()}
        known = {
            **await setup.settings_there(host, place),
            **(request.settings or {}),
        }  # what is told to us may be a secret
        try:
            with journal.knowing(known).operation("deploy", **data) as operation:
                ctx = Context(fence, compose, operation, tell, {})
                verdict = await _deploy(ctx, request)
                if not verdict.good:
                    raise _Bad(verdict)
        except _Bad as bad:
            verdict = bad.verdict
    await take_in(host, place, journal)
    return verdict


async def _deploy(ctx: Context, request: Request) -> Verdict:
    ctx.step("locked", token=ctx.fence.token, **ctx.fence.taken)
    recovered, free = await asyncio.gather(recover(ctx), ctx.host.run(commands.free_kilobytes(ctx.place.dir)))
    again = any(isinstance(action, Services | Start) for action in recovered)
    await _set_up(ctx, request.settings or {})
    snapshot = await read_inputs(ctx.host, ctx.place)
    ctx = replace(ctx, settings=commands.parsed_env(snapshot.files["env"].decode("utf-8", "replace")))
    ctx.operation.hide(ctx.settings)
    await _preflight(ctx, snapshot, free)
    state = await read_state(ctx.host, ctx.place)
    serving = await read_release(ctx.host, ctx.place, state.active.release) if state.active else None
    release = await _release(ctx, request, snapshot, serving)
    ctx.operation.outcome.update(_outcome(release, serving, request))
    if serving and serving.same_content(release) and serving.verdict == Judgement.GOOD:
        ctx.operation.outcome.update(verdict="unchanged", release=serving.number)
        why = "what did not run was started again" if again else ""
        return Verdict("unchanged", serving.number, serving.number, serving.platform, why)
    await _not_quarantined(ctx, release, request)
    if reason := await images_on_host.unfit(ctx, release.platform):
        return await _turned_away(ctx, release, snapshot, reason)
    ctx.step("image fits")
    async with creating_ahead(ctx, release, snapshot, state) as ahead:
        try:
            plan = await _judged_migrations(ctx, release, snapshot, serving, request)
        except WoprError as error:
            if ahead:
                await ahead.undo()
            # The image itself does not do what every image of ours does, unless nothing answered that could say so.
            if isinstance(error, HostFailed) and not error.says_nothing:
                return await _turned_away(ctx, release, snapshot, error.message)
            raise
        incoming = Incoming(release, snapshot, request.limits, ahead=ahead)
        verdict = await _come_in(ctx, incoming, plan, request)
    ctx.operation.outcome.update(verdict=verdict.verdict, reason=verdict.reason, seconds=verdict.seconds)
    if verdict.good:
        await images_on_host.give_back(ctx, await read_releases(ctx.host, ctx.place))
        ctx.step("old images given back")
        await record_sight(ctx)
    return verdict


async def _come_in(ctx: Context, incoming: Incoming, plan: Pending, request: Request) -> Verdict:
    release = replace(incoming.release, migration_head=plan.head, migrations=recorded(plan))

    async def prepare() -> None:
        await _migrate(ctx, release, plan, request)

    return await cut_over(ctx, replace(incoming, release=release, prepare=prepare))


async def find_compose(host: Host) -> Compose:
    """The compose of a host: the plugin, or the program of its own."""
    found = await host.run(commands.which_compose())
    if one := {"plugin": PLUGIN, "standalone": STANDALONE}.get(found.text):
        return one
    raise HostFailed(
        f"{host.describe()} has no docker compose.",
        remedy="Install Docker with its compose plugin: https://docs.docker.com/engine/install/",
    )


async def _set_up(ctx: Context, chosen: Mapping[str, str]) -> None:
    """What the folder lacks, and what the operator chose; told by name, for some are secrets."""
    lacking = await setup.look(ctx.host, ctx.place, chosen)
    if chosen:  # what is refused shall not be in the file afterwards
        await refuse_bad_env(ctx.host, ctx.place, lacking.env.encode())
    await setup.complete(ctx.fence, lacking)
    if lacking.written:
        ctx.step("set up", settings=", ".join(lacking.written))


async def _preflight(ctx: Context, snapshot: Snapshot, free: Output) -> None:
    """What must hold before anything is fetched. Refused with the remedy."""
    await refuse_bad_env(ctx.host, ctx.place, snapshot.files["env"])
    if not snapshot.files["compose.yaml"].strip() or not snapshot.files["Caddyfile"].strip():
        raise Refused(
            f"compose.yaml or Caddyfile in {ctx.place.dir} is empty.", remedy="Remove it; wopr writes it anew."
        )
    if free.ok and free.text.isdigit() and int(free.text) < FREE_KILOBYTES_MIN:
        raise Refused(
            f"{ctx.host.describe()} has {int(free.text) // 1024} MB left; a release needs 1 GB.",
            remedy="docker system df, then docker image prune",
        )
    await ctx.fence.must(("chmod", "600", ctx.place.env))
    ctx.step("preflight")


async def _release(ctx: Context, request: Request, snapshot: Snapshot, serving: Release | None) -> Release:
    """What would be released, with its images fetched and named by digest."""
    image = request.image or (serving.platform if serving else first_image(ctx.settings))
    platform = await images_on_host.fetch(ctx.fence, ctx.settings, image)
    ctx.step("pulled", platform=platform)
    bot = request.bot or ctx.settings.get("BOT_IMAGE", "") or (serving.bot if serving else BOT_IMAGE)
    if request.bot or ctx.settings.get("BOT_RUNTIME") in CONTAINER_RUNTIMES:
        bot = await _bot_image(ctx, bot)
    await images_on_host.fetch_around(ctx)
    numbers = [one.number for one in await read_releases(ctx.host, ctx.place)]
    return Release(
        number=max(numbers, default=0) + 1,
        platform=platform,
        bot=bot,
        config_hash=snapshot.config_hash,
        env_hash=snapshot.env_hash,
        migration_head="",
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        created_by=request.by,
        trigger=request.trigger,
    )


def first_image(settings: Mapping[str, str]) -> str:
    """What the first release is of when nobody names an image: that which is watched afterwards."""
    return settings.get("WOPR_IMAGE", "") or PLATFORM_IMAGE


async def _bot_image(ctx: Context, image: str) -> str:
    """The bots' image on the host, by digest. Without one that fits no bot would ever start, so nothing is changed."""
    try:
        bot = await images_on_host.fetch(ctx.fence, ctx.settings, image)
    except HostFailed as error:
        raise HostFailed(
            f"Bots run in containers, and their image is missing: {error.message}",
            remedy=f"{error.remedy} Another one: BOT_IMAGE=… in .env, or --bot; bots without one: BOT_RUNTIME=process.",
        ) from error
    if reason := await images_on_host.unfit(ctx, bot, images_on_host.BOT_PROGRAM):
        raise Refused(f"{bot} is no image for bots: {reason}.", remedy="Correct BOT_IMAGE in .env, or --bot.")
    ctx.step("pulled", bot=bot)
    return bot


async def _not_quarantined(ctx: Context, release: Release, request: Request) -> None:
    found = quarantine.find(await quarantine.read_quarantine(ctx.host, ctx.place), release.content())
    if found is None:
        return
    if not request.despite_quarantine:
        raise Refused(
            f"{release.platform} is quarantined: release {found.release} failed at {found.at}: {found.reason}",
            code="quarantined",
            remedy="Release a corrected image, or, to try the same once more: --despite-quarantine",
        )
    await quarantine.lift(ctx.fence, release.content())
    ctx.step("quarantine lifted", release=found.release)


async def _turned_away(ctx: Context, release: Release, snapshot: Snapshot, reason: str) -> Verdict:
    ctx.operation.outcome.update(verdict="bad", reason=reason)
    return await turn_away(ctx, release, snapshot, reason)


async def _judged_migrations(
    ctx: Context, release: Release, snapshot: Snapshot, serving: Release | None, request: Request
) -> Pending:
    """What the release would do to the database. Refused when it destroys, before anything is changed."""
    if serving is None:
        await record_new(ctx.fence, release, snapshot)
        await _first_services(ctx, release, snapshot)
    expected = serving.migration_head if serving else None
    plan = await pending(ctx.fence, ctx.place, release.platform, expected)
    if not plan.ahead:
        guard(plan, allow_destructive=request.allow_destructive, cutover=serving is not None)
    elif not request.allow_destructive:
        _guard_older(plan, await read_releases(ctx.host, ctx.place))
    ctx.step("migrations judged", pending=len(plan.migrations), kind=str(plan.kind))
    return plan


def _guard_older(plan: Pending, releases: Sequence[Release]) -> None:
    """An image older than the database runs on what later releases left there only where that broke nothing."""
    later = [(one, release.number) for release in releases for one in release.migrations if one["revision"] > plan.head]
    breaking = [f"{one['revision']} ({one['kind']}) of release {number}" for one, number in later if fatal(one)]
    if breaking:
        raise Refused(
            f"The image ends at {plan.head} and can't run on the database as later releases left it: "
            f"{', '.join(breaking)}; nothing was changed.",
            code="database_ahead",
            remedy="Restore the dump taken before it (in dumps/), or, when you know that it runs: --allow-destructive",
        )


async def _first_services(ctx: Context, release: Release, snapshot: Snapshot) -> None:
    """The very first release needs its database before it can say what it would do to it."""
    await write_environment(ctx, release, snapshot, "blue")
    await start_services(ctx, release.number, snapshot)
    ctx.step("services up")
    await wait_database(ctx)


async def wait_database(ctx: Context) -> None:
    """Wait until PostgreSQL answers; HostFailed when it does not."""
    ready = ("docker", "exec", ctx.place.container("postgres"), "pg_isready", "-q", "-h", "127.0.0.1", "-U", "wopr")
    script = 'for i in $(seq 1 300); do "$@" && exit 0; sleep 0.2; done; exit 1'
    await ctx.fence.must(("sh", "-c", script, "wait", *ready), timeout=90)
    ctx.step("database up")


async def _migrate(ctx: Context, release: Release, plan: Pending, request: Request) -> None:
    """Dump, verified, then migrate. Failed with the reason: the old release goes on, on a database as it was."""
    if not plan.migrations or plan.ahead:
        return
    try:
        if plan.at is not None:
            dump = await dump_verified(ctx.fence, ctx.place)
            ctx.step("dumped", path=dump.path, tables=dump.tables, rows=dump.rows)
        await record(ctx.fence, release)
        reached = await run_migrations(
            ctx.fence, ctx.place, release.platform, allow_destructive=request.allow_destructive
        )
    except WoprError as error:
        if isinstance(error, Refused) or (isinstance(error, HostFailed) and error.says_nothing):
            raise
        # Those that did not run must not stay in it, or no rollback could pass it.
        await record(ctx.fence, replace(release, migrations=await ran(ctx.fence, ctx.place, release.migrations)))
        raise Failed(error.message) from error
    ctx.step("migrated", to=reached)


def _outcome(release: Release, serving: Release | None, request: Request) -> dict[str, object]:
    return {
        "release": release.number,
        "platform": release.platform,
        "bot": release.bot,
        "previous": serving.number if serving else None,
        "previous_platform": serving.platform if serving else "",
        "trigger": request.trigger,
    }


def document(verdict: Verdict) -> dict[str, object]:
    """For `--json`."""
    return asdict(verdict)
