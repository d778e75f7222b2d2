"""`wopr smoke`: the happy path from sign-up to a paid answer, against any deployment."""

import asyncio
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from wopr.cli import output
from wopr.cli.output import (
    FAILED,
    JsonOption,
    ProgressKind,
    ProgressOption,
    complain,
    dim,
    fail,
    json_document,
    result,
    say,
)

if TYPE_CHECKING:
    from wopr.cli.progress import Progress
    from wopr.ops.smoke import Target

EXAMPLES = "Examples: wopr smoke | wopr smoke --url https://api.wopr.bot --key wopr_admin_…"


def smoke(
    url: Annotated[str, typer.Option(help="Address of the API; default: API_URL.")] = "",
    mail_url: Annotated[str, typer.Option(help="The mail stand-in, where the verification mail is read.")] = "",
    key: Annotated[
        str, typer.Option(envvar="WOPR_KEY", help="Key of a paying customer: skips sign-up and payment.")
    ] = "",
    patience: Annotated[float, typer.Option(min=1, help="Seconds that each step may take.")] = 30.0,
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Walk the happy path (sign up, pay, bot, answer) and print each step with its time."""
    from wopr.cloud.lookup import servers
    from wopr.cloud.outside import transport
    from wopr.core.settings import load_settings
    from wopr.ops.journal import Journal
    from wopr.ops.smoke import Target

    settings = load_settings()
    if urlsplit(url or settings.api_url).scheme not in ("http", "https"):
        raise typer.BadParameter(
            f"{url or settings.api_url!r} is no address: write http://… or https://…", param_hint="--url"
        )
    local = "localhost" in (url or settings.api_url) or "127.0.0.1" in (url or settings.api_url)
    if not key and not mail_url and not local:
        fail(
            "This deployment sends real mail and takes real money, which no program can follow.",
            remedy="Make a key as a paying customer and run: wopr smoke --url … --key wopr_admin_…",
            code=2,
        )
    host = urlsplit(url or settings.api_url).hostname or ""
    stages = output.progress(progress, "" if local else host, as_json=as_json)
    through = transport(servers(settings.dns_servers), settings.acme_ca_bundle)
    target = Target(url or settings.api_url, mail_url or settings.resend_api_base, key, through, patience)
    if key and not as_json:
        say(dim("  sign-up and payment are skipped: a key was given"))
    with Journal(settings.wopr_home).operation("smoke", url=target.url) as operation:
        code = asyncio.run(_walk(target, stages, as_json))
        operation.outcome["passed"] = code == 0
    raise typer.Exit(code)


async def _walk(target: "Target", stages: "Progress", as_json: bool) -> int:
    from wopr.ops.smoke import walk

    steps = []
    with stages.stage("", "the happy path", keep=False) as path:
        async for step in walk(target):
            steps.append(step)
            stages.ended("", step.name, step.seconds, step.detail, step.error)
        broken = next((step for step in steps if step.error), None)
        if broken:
            path.forget()
    total = sum(step.seconds for step in steps)
    if as_json:
        names = ("name", "seconds", "detail", "error", "remedy")
        document = [{name: getattr(step, name) for name in names} for step in steps]
        json_document({"ok": broken is None, "seconds": round(total, 3), "steps": document})
    elif broken is None:
        result(f"The happy path works: {total:.2f} s from sign-up to a paid answer.")
    else:
        complain(f"{broken.name}: {broken.error}", remedy=broken.remedy)
    return FAILED if broken else 0
