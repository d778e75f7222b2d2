"""`wopr deploy`: one release, from an image to its verdict, without a failed request."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli import output
from wopr.cli.installation import Teller, Where, operator
from wopr.cli.options import shared
from wopr.cli.output import DryRunOption, ExitCodeOption, JsonOption, ProgressKind, ProgressOption, YesOption

if TYPE_CHECKING:
    from wopr.delivery.cutover import Verdict
    from wopr.delivery.deploy import Request
    from wopr.delivery.hosts import Host
    from wopr.delivery.place import Place

EXAMPLES = (
    "Examples: wopr deploy ghcr.io/wopr-network/wopr-platform:latest | wopr deploy --set WOPR_DOMAIN=example.com"
    " | wopr deploy --dry-run --host root@api.example.com"
)


@dataclass(frozen=True)
class What:
    """What is released, and how carefully."""

    bot: Annotated[str, typer.Option(help="Image of the bots; default: the one that runs.")] = ""
    allow_destructive: Annotated[
        bool, typer.Option("--allow-destructive", help="Run migrations that destroy data or break the running release.")
    ] = False
    despite_quarantine: Annotated[bool, typer.Option("--despite-quarantine", help="Try again what failed before.")] = (
        False
    )
    observe: Annotated[float, typer.Option(min=0, help="Seconds for which the new release is watched.")] = 20.0
    ready: Annotated[
        float, typer.Option(min=0, help="Seconds within which it must be ready; 0: by what earlier ones took.")
    ] = 0.0
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting for .env; may be repeated.")
    ] = None
    trigger: Annotated[str, typer.Option(help="What made this release happen, for the logbook.")] = "operator"

    def settings(self) -> dict[str, str]:
        """What `--set` gave; a wrong one ends the command."""
        pairs = [one.partition("=") for one in self.set or []]
        if wrong := [name for name, sign, _ in pairs if not sign or not name.isidentifier()]:
            raise typer.BadParameter(f"{wrong[0]} is no NAME=VALUE", param_hint="--set")
        return {name: value for name, _, value in pairs}

    def request(self, image: str) -> "Request":
        from wopr.delivery.cutover import Limits
        from wopr.delivery.deploy import Request

        return Request(
            image=image,
            bot=self.bot,
            trigger=self.trigger,
            by=operator(),
            allow_destructive=self.allow_destructive,
            despite_quarantine=self.despite_quarantine,
            limits=Limits(self.ready, self.observe),
            settings=self.settings(),
        )


@shared
def deploy(
    what: What,
    where: Where,
    image: Annotated[
        str, typer.Argument(help="Image of the platform, by tag or digest; without it a changed .env is released.")
    ] = "",
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Release an image, or a changed .env: next to what serves, which keeps serving until the new one is ready.

    A bad release goes back by itself and is not tried again. An empty folder is set up first.
    """
    request = what.request(image)
    machine = where.machine()
    told = output.progress(progress, machine.describe(), as_json=as_json)
    if dry_run:
        _show_plan(asyncio.run(_dry(machine, where, request)), as_json=as_json)
        return
    tell = Teller(told, machine.describe())

    async def run() -> "Verdict":
        from wopr.delivery.deploy import deploy as release

        try:
            place = await where.place(machine)
            await _agreed(machine, place, request, yes=yes)
            return await release(machine, place, where.journal(), request, tell)
        finally:
            tell.end()
            await machine.close()

    _finish(asyncio.run(run()), where, exit_code=exit_code, as_json=as_json)


async def _agreed(host: "Host", place: "Place", request: "Request", *, yes: bool) -> None:
    """Secrets are made only with the operator's word: an `.env` of another place may be what is missing."""
    from wopr.delivery import setup

    lacking = await setup.look(host, place, request.settings or {})
    if lacking.generated:
        names = ", ".join(lacking.generated)
        output.confirm(f"{place.env} on {host.describe()} lacks {names}. Make them?", yes=yes)


async def _dry(host: "Host", where: Where, request: "Request") -> dict[str, Any]:
    """What a release would consist of; nothing is fetched and nothing is changed."""
    from wopr.delivery import setup
    from wopr.delivery.commands import parsed_env
    from wopr.delivery.deploy import first_image
    from wopr.delivery.look import observe
    from wopr.delivery.plan import plan
    from wopr.delivery.release import read_inputs, read_release, read_state

    try:
        place = await where.place(host)
        lacking = await setup.look(host, place, request.settings or {})
        state, inputs = await read_state(host, place), await read_inputs(host, place)
        serving = await read_release(host, place, state.active.release) if state.active else None
        left = plan(state, await observe(host, place, state))
        return {
            "host": host.describe(),
            "folder": place.dir,
            "serving": serving.number if serving else None,
            "platform": request.image or (serving.platform if serving else first_image(parsed_env(lacking.env))),
            "settings_change": lacking.changed or serving is None or serving.env_hash != inputs.env_hash,
            "configuration_changes": bool(lacking.files)
            or serving is None
            or serving.config_hash != inputs.config_hash,
            "writes": sorted([*lacking.files, *([".env"] if lacking.changed else [])]),
            "recovers": [type(action).__name__.lower() for action in left],
        }
    finally:
        await host.close()


def _show_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.json_document({"dry_run": True, **plan})
        return
    output.result(f"would release {plan['platform']} on {plan['host']} in {plan['folder']}")
    lines: Sequence[tuple[str, object]] = (
        ("it would write", ", ".join(plan["writes"])),
        ("an earlier run left", ", ".join(plan["recovers"])),
        ("settings", "changed" if plan["settings_change"] else ""),
        ("configuration", "changed" if plan["configuration_changes"] else ""),
    )
    for name, value in lines:
        if value:
            output.result(f"  {name}: {value}")


def _finish(verdict: "Verdict", where: Where, *, exit_code: bool, as_json: bool) -> None:
    if as_json:
        output.json_document(asdict(verdict))
    if verdict.verdict == "unchanged" and verdict.reason:
        if not as_json:
            output.result(f"release {verdict.serving} serves again: {verdict.reason}, with nothing new in it")
        return
    if verdict.verdict == "unchanged":
        if not as_json:
            output.result(f"nothing to do: release {verdict.serving} has these images, configuration and settings")
        output.nothing_to_do(exit_code)
        return
    if not verdict.good:
        kept = f"Release {verdict.serving} serves ({verdict.platform})." if verdict.serving else "Nothing serves."
        why = verdict.reason.rstrip(".")
        output.fail(f"Release {verdict.release} failed: {why}. {kept}", remedy=where.paste("wopr releases"))
    if not as_json:
        output.result(f"release {verdict.release} serves: {verdict.platform} ({verdict.seconds:.1f} s)")
