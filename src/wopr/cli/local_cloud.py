"""`wopr local cloud`: points a shell at the stand-ins, so that commands there meet them instead of the companies."""

import asyncio
import shlex
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from wopr.cli import output
from wopr.cli.emulators import PORTS
from wopr.cli.output import JsonOption
from wopr.cli.ports import PORT_MAX

ASK_SECONDS = 3.0
# What each stand-in takes for a key: anything of the right form.
ANY_TOKEN = "of-the-stand-in-and-of-nobody-else-at-all"  # noqa: S105 - it opens nothing
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "stripe": {"STRIPE_API_BASE": "{url}", "STRIPE_SECRET_KEY": "sk_test_of_the_stand_in"},
    "resend": {"RESEND_API_BASE": "{url}", "RESEND_API_KEY": "re_of_the_stand_in"},
    "digitalocean": {"DO_API_BASE": "{url}", "DO_API_TOKEN": ANY_TOKEN},
    "cloudflare": {"CLOUDFLARE_API_BASE": "{url}/client/v4", "CLOUDFLARE_API_TOKEN": ANY_TOKEN},
}


def cloud(
    host: Annotated[str, typer.Option(help="Address at which the stand-ins listen.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=PORT_MAX - 3, help="Port of Stripe's; the others' follow it.")
    ] = PORTS["stripe"],
    as_json: JsonOption = False,
) -> None:
    """Write the variables with which a shell's commands meet the stand-ins that run: eval "$(wopr local cloud)"."""
    addresses = {name: f"http://{host}:{port + at - PORTS['stripe']}" for name, at in PORTS.items()}
    variables, silent = asyncio.run(_found(addresses))
    if not variables:
        output.fail(f"No stand-in answers from {addresses['stripe']} on.", remedy=f"wopr emulators all --port {port}")
    for name in silent:
        output.say(f"{name} does not answer at {addresses[name]}: wopr emulators {name}")
    if as_json:
        output.json_document({"variables": variables, "silent": silent})
        return
    for name, value in variables.items():
        output.result(f"export {name}={shlex.quote(value)}")
    if sys.stdout.isatty():
        output.say('Nothing is changed yet. In the shell that is meant: eval "$(wopr local cloud)"')


async def _found(addresses: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The variables of the stand-ins that answer, and the names of those that do not."""
    import httpx

    variables: dict[str, str] = {}
    silent: list[str] = []
    async with httpx.AsyncClient(timeout=ASK_SECONDS) as http:
        for name, url in addresses.items():
            if await _answer(http, f"{url}/health") is None:
                silent.append(name)
                continue
            variables |= {setting: value.format(url=url) for setting, value in SETTINGS[name].items()}
            if name == "cloudflare" and (server := await _answer(http, f"{url}/_emulator/dns")):
                variables["DNS_SERVERS"] = f"{server['host']}:{server['port']}"
    return variables, silent


async def _answer(http: Any, url: str) -> dict[str, Any] | None:  # httpx is imported where it is needed; JSON
    import httpx

    try:
        answer = await http.get(url)
        found: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError):
        return None
    return found if answer.status_code == httpx.codes.OK else None
