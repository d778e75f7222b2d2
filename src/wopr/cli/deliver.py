"""`wopr deliver`: watch the registry and release what is new, without a hand; what Watchtower did, with a way back."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from wopr.cli import output
from wopr.cli.installation import Teller, Where, operator
from wopr.cli.options import shared
from wopr.cli.output import DryRunOption, ExitCodeOption, JsonOption, ProgressKind, ProgressOption
from wopr.core.stop import Stop
from wopr.delivery.errors import Refused

if TYPE_CHECKING:
    from wopr.core.settings import Settings
    from wopr.delivery.cutover import Limits
    from wopr.delivery.deliver import RealWorld
    from wopr.delivery.hooks import Hooks
    from wopr.delivery.watch import Deliverer, Event

EXAMPLES = "Examples: wopr deliver --dir /root/wopr-platform | wopr deliver --once --dry-run"


@dataclass(frozen=True)
class How:
    """How carefully what is new is released."""

    observe: Annotated[float, typer.Option(min=0, help="Seconds for which a new release is watched.")] = 20.0
    ready: Annotated[
        float, typer.Option(min=0, help="Seconds within which it must be ready; 0: by what earlier ones took.")
    ] = 0.0
    progress: ProgressOption = ProgressKind.AUTO
    hand_over: Annotated[
        str, typer.Option("--hand-over", hidden=True, help="Replace the deliverer by this image; the helper's part.")
    ] = ""
    hand_back: Annotated[
        str, typer.Option("--hand-back", hidden=True, help="The image to go back to when that one does not work.")
    ] = ""

    def limits(self) -> "Limits":
        from wopr.delivery.cutover import Limits

        return Limits(self.ready, self.observe)


@shared
def deliver(
    how: How,
    where: Where,
    once: Annotated[bool, typer.Option("--once", help="Look once, release what is new, and end.")] = False,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Watch the tags of the platform and the bots (WOPR_IMAGE, BOT_IMAGE) and release each new digest by itself.

    It looks every DELIVER_PERIOD_SECONDS, and at once when a registry or GitHub tells of a push.
    """
    if how.hand_over:
        raise typer.Exit(asyncio.run(_hand_over(how, where)))
    if dry_run:
        found = asyncio.run(_show(how, where))
        _tell_found(found, as_json=as_json)
        return
    done = asyncio.run(_deliver(how, where, once=once, as_json=as_json))
    if done is None:
        output.nothing_to_do(exit_code)
    elif done == "bad":
        raise typer.Exit(output.FAILED)


async def _deliver(how: How, where: Where, *, once: bool, as_json: bool) -> str | None:
    """Look once, or for ever; the verdict of the one look."""
    from wopr.core.settings import load_settings
    from wopr.delivery.watch import Deliverer

    settings = load_settings()
    world = await _world(how, where, settings, as_json=as_json)
    deliverer = Deliverer(world, world.wish.watched(), world.wish.period_seconds)
    try:
        if once:
            ended = await deliverer.look()
            if deliverer.failure:  # it was told already
                raise typer.Exit(output.REFUSED if isinstance(deliverer.failure, Refused) else output.FAILED)
            return ended.verdict if ended else None
        hooks = await _listen(deliverer, world, settings)
        try:
            await _until_told(deliverer)
        finally:
            await hooks.stop()
        return None
    finally:
        await world.close()


async def _until_told(deliverer: "Deliverer") -> None:
    """Run until a signal ends it; a release that is on its way is interrupted, and finished by whoever comes next."""
    running = asyncio.ensure_future(deliverer.run())
    stop = Stop(running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    stop.pass_on()


async def _world(how: How, where: Where, settings: "Settings", *, as_json: bool) -> "RealWorld":
    from wopr.delivery.deliver import RealWorld, wish_of
    from wopr.delivery.setup import settings_there

    host = where.machine()
    place = await where.place(host)
    theirs = await settings_there(host, place)
    wish = wish_of(theirs, _defaults(settings), how.limits())

    step = Teller(output.progress(how.progress, host.describe(), as_json=as_json), host.describe())

    def report(event: "Event") -> None:
        step.end()
        _report(event, as_json=as_json)

    return RealWorld(host, place, where.journal(), wish, report, step, operator())


def _defaults(settings: "Settings") -> Mapping[str, str]:
    """The settings that count here by their names, as this process has them."""
    names = (
        "wopr_image",
        "bot_image",
        "deliver_period_seconds",
        "incident_after_seconds",
        "registry_server",
        "registry_username",
        "registry_plain_http",
    )
    secret = settings.registry_password
    found = {name.upper(): str(getattr(settings, name)) for name in names}
    return found | {"REGISTRY_PASSWORD": secret.get_secret_value() if secret else ""}


async def _listen(deliverer: "Deliverer", world: "RealWorld", settings: "Settings") -> "Hooks":
    """The listener for notifications; one without a secret listens to nobody and is not started."""
    from wopr.delivery.hooks import Hooks
    from wopr.delivery.setup import settings_there
    from wopr.delivery.watch import Event

    theirs = await settings_there(world.host, world.place)

    def secret(name: str) -> str:
        value = getattr(settings, name.lower())
        return theirs.get(name) or (value.get_secret_value() if value else "")

    hooks = Hooks(deliverer.notify, secret("DELIVER_HOOK_SECRET"), secret("GITHUB_WEBHOOK_SECRET"))
    if hooks.registry_secret or hooks.github_secret:
        host = theirs.get("DELIVER_HOOK_HOST") or settings.deliver_hook_host
        port = await hooks.start(host, int(theirs.get("DELIVER_HOOK_PORT") or settings.deliver_hook_port))
        world.tell(Event("listening for notifications", f"{host}:{port}"))
    return hooks


async def _show(how: How, where: Where) -> list[dict[str, object]]:
    """What each tag means now, and whether that would be released."""
    from wopr.core.settings import load_settings
    from wopr.delivery.watch import dealt_with

    world = await _world(how, where, load_settings(), as_json=True)
    try:
        found: list[dict[str, object]] = []
        releases, handled = await world.releases(), await world.handled()
        for kind, image in world.wish.watched().items():
            digest = await world.digest(image)
            known = handled.get(kind) == digest
            dealt = known or dealt_with(kind, image.pinned(digest), releases, moved=kind in handled)
            found.append({"kind": kind, "image": str(image), "digest": digest, "would_release": not dealt})
        return found
    finally:
        await world.close()


def _tell_found(found: list[dict[str, object]], *, as_json: bool) -> None:
    if as_json:
        output.json_document({"dry_run": True, "images": found})
        return
    for one in found:
        word = "would be released" if one["would_release"] else "dealt with"
        output.result(f"{one['image']} is {one['digest']}: {word}")


async def _hand_over(how: How, where: Where) -> int:
    from wopr.delivery.deliver_handover import Handover, NotTried
    from wopr.delivery.failures import end_old_deliverer, tell_old_deliverer

    host = where.machine()
    handover = Handover(host, await where.place(host))
    try:
        problem = await handover.finish(how.hand_over, how.hand_back)
        if problem:
            tell_old_deliverer(where.journal(), handover.place.dir, how.hand_over, problem)
        elif await handover.runs(how.hand_over):
            end_old_deliverer(where.journal(), handover.place.dir, how.hand_over)
    except NotTried as error:
        problem = error.message
    await handover.leave()  # last, for it is the end of this process where that is the helper
    await host.close()
    if problem:
        output.say(problem)
    return output.FAILED if problem else 0


def _report(event: "Event", *, as_json: bool) -> None:
    if as_json:
        output.json_line({"event": event.what, "detail": event.detail, **event.data})
        return
    output.result(f"{event.what}: {event.detail}" if event.detail else event.what)
    if fix := event.data.get("fix"):
        output.say(f"  fix: {fix}")
