"""`wopr smoke`: the happy path from sign-up to a paid answer, against any deployment."""

import asyncio
from typing import Annotated

import typer

from wopr.cli.output import FAILED, JsonOption, bad, dim, fail, good, json_document, result, say

EXAMPLES = "Examples: wopr smoke | wopr smoke --url https://api.wopr.bot --key wopr_admin_…"


def smoke(
    url: Annotated[str, typer.Option(help="Address of the API; default: API_URL.")] = "",
    mail_url: Annotated[str, typer.Option(help="The mail stand-in, where the verification mail is read.")] = "",
    key: Annotated[
        str, typer.Option(envvar="WOPR_KEY", help="Key of a paying customer: skips sign-up and payment.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Walk the happy path (sign up, pay, bot, answer) and print each step with its time."""
    from wopr.core.settings import load_settings
    from wopr.ops.journal import Journal
    from wopr.ops.smoke import Target

    settings = load_settings()
    local = "localhost" in (url or settings.api_url) or "127.0.0.1" in (url or settings.api_url)
    if not key and not mail_url and not local:
        fail(
            "This deployment sends real mail and takes real money, which no program can follow.",
            remedy="Make a key as a paying customer and run: wopr smoke --url … --key wopr_admin_…",
            code=2,
        )
    target = Target(url or settings.api_url, mail_url or settings.resend_api_base, key)
    if key and not as_json:
        say(dim("  sign-up and payment are skipped: a key was given"))
    with Journal(settings.wopr_home).operation("smoke", url=target.url) as operation:
        code = asyncio.run(_walk(target, as_json))
        operation.outcome["passed"] = code == 0
    raise typer.Exit(code)


async def _walk(target: object, as_json: bool) -> int:
    from wopr.ops.smoke import Target, walk

    assert isinstance(target, Target)
    steps = []
    async for step in walk(target):
        steps.append(step)
        if not as_json:
            mark = bad("✗") if step.error else good("✓")
            say(f"  {mark} {step.name:<20} {step.seconds:6.2f} s  {step.error or dim(step.detail)}")
    broken = next((step for step in steps if step.error), None)
    total = sum(step.seconds for step in steps)
    if as_json:
        names = ("name", "seconds", "detail", "error", "remedy")
        document = [{name: getattr(step, name) for name in names} for step in steps]
        json_document({"ok": broken is None, "seconds": round(total, 3), "steps": document})
    elif broken is None:
        result(f"The happy path works: {total:.2f} s from sign-up to a paid answer.")
    else:
        say(f"{bad('error:')} {broken.name}: {broken.error}")
        if broken.remedy:
            say(f"  fix: {broken.remedy}")
    return FAILED if broken else 0
