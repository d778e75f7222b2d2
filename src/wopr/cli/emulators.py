"""`wopr emulators`: the stand-ins for outside companies, each runnable as a process of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wopr.cli.output import JsonOption, fail, json_line, say
from wopr.cli.ports import PORT_MAX

if TYPE_CHECKING:
    from wopr.emulators.serving import Served
    from wopr.emulators.stripe import StripeSettings

STRIPE_PORT, RESEND_PORT, DIGITALOCEAN_PORT = 4101, 4102, 4103

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Stand-ins for Stripe, Resend and DigitalOcean that speak their real APIs. For development and tests only.",
    epilog="Examples: wopr emulators all | wopr emulators stripe --webhook-url URL --webhook-secret whsec_…",
)

HostOption = Annotated[str, typer.Option(help="Address to listen on.")]
StateOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the stand-in's state; without it WOPR_HOME/emulators.", show_default=False),
]
WebhookUrlOption = Annotated[
    str, typer.Option(help="Where events are delivered; empty: only endpoints made by the API.")
]
WebhookSecretOption = Annotated[str, typer.Option(help="Signing secret; empty: STRIPE_WEBHOOK_SECRET.")]
PublicUrlOption = Annotated[str, typer.Option(help="Address in links to pages; empty: the one that was asked.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse senders whose domain was not verified.")]


@app.command(
    "stripe",
    epilog="Example: wopr emulators stripe --port 4101 --webhook-url http://127.0.0.1:3100/api/billing/webhook",
)
def stripe_command(
    port: Annotated[int, typer.Option(min=0, max=PORT_MAX, help="Port; 0 takes a free one.")] = STRIPE_PORT,
    host: HostOption = "127.0.0.1",
    state: StateOption = None,
    webhook_url: WebhookUrlOption = "",
    webhook_secret: WebhookSecretOption = "",
    public_url: PublicUrlOption = "",
    as_json: JsonOption = False,
) -> None:
    """Run the stand-in for Stripe: API, checkout page, portal, webhooks."""
    _run([_stripe(_folder(state), host, port, _hooks(webhook_url, webhook_secret, public_url))], as_json)


@app.command("resend", epilog="Example: wopr emulators resend --port 4102")
def resend_command(
    port: Annotated[int, typer.Option(min=0, max=PORT_MAX, help="Port; 0 takes a free one.")] = RESEND_PORT,
    host: HostOption = "127.0.0.1",
    state: StateOption = None,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run the stand-in for Resend: API, and a page that shows the mails."""
    _run([_resend(_folder(state), host, port, strict)], as_json)


@app.command("digitalocean", epilog="Example: wopr emulators digitalocean --port 4103")
def digitalocean_command(
    port: Annotated[int, typer.Option(min=0, max=PORT_MAX, help="Port; 0 takes a free one.")] = DIGITALOCEAN_PORT,
    host: HostOption = "127.0.0.1",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the stand-in for DigitalOcean: API, and a page that shows the droplets and what they would cost."""
    _run([_digitalocean(_folder(state), host, port)], as_json)


@app.command("all", epilog="Example: wopr emulators all --port 4101")
def all_command(
    port: Annotated[
        int,
        typer.Option(
            min=0, max=PORT_MAX - 2, help="Port of Stripe's; the others have the next ones; 0 takes free ones."
        ),
    ] = STRIPE_PORT,
    host: HostOption = "127.0.0.1",
    state: StateOption = None,
    webhook_url: WebhookUrlOption = "",
    webhook_secret: WebhookSecretOption = "",
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run every stand-in in one process."""
    folder = _folder(state)
    stripe = _stripe(folder, host, port, _hooks(webhook_url, webhook_secret, ""))
    resend = _resend(folder, host, port + 1 if port else 0, strict)
    _run([stripe, resend, _digitalocean(folder, host, port + 2 if port else 0)], as_json)


def _hooks(webhook_url: str, webhook_secret: str, public_url: str) -> "StripeSettings":
    from wopr.core.settings import load_settings
    from wopr.emulators.stripe import StripeSettings
    from wopr.emulators.stripe.settings import DEFAULT_PRICE_ID

    settings = load_settings()
    known = settings.stripe_webhook_secret
    return StripeSettings(
        default_price_id=settings.stripe_default_price_id or DEFAULT_PRICE_ID,
        public_url=public_url or None,
        webhook_url=webhook_url or None,
        webhook_secret=webhook_secret or (known.get_secret_value() if known else None),
    )


def _stripe(folder: Path, host: str, port: int, settings: "StripeSettings") -> "Served":
    from dataclasses import replace

    from wopr.emulators.serving import Served
    from wopr.emulators.stripe import build_stripe

    return Served("stripe", build_stripe(replace(settings, state=folder / "stripe.sqlite3")), host, port)


def _resend(folder: Path, host: str, port: int, strict: bool) -> "Served":
    from wopr.emulators.resend import ResendSettings, build_resend
    from wopr.emulators.serving import Served

    return Served("resend", build_resend(ResendSettings(folder / "resend.sqlite3", strict=strict)), host, port)


def _digitalocean(folder: Path, host: str, port: int) -> "Served":
    from wopr.core.settings import load_settings
    from wopr.emulators.digitalocean import DigitalOceanSettings, build_digitalocean
    from wopr.emulators.serving import Served

    settings = DigitalOceanSettings(folder / "digitalocean.sqlite3", installation=load_settings().installation)
    return Served("digitalocean", build_digitalocean(settings), host, port)


def _folder(state: Path | None) -> Path:
    from wopr.core.settings import load_settings

    return state if state is not None else load_settings().wopr_home / "emulators"


def _run(applications: "list[Served]", as_json: bool) -> None:
    from wopr.emulators.serving import PortTaken, listen, serve

    try:
        bound = [(one, listen(one)) for one in applications]
    except PortTaken as taken:
        fail(str(taken), remedy="Choose another port with --port, or end the process that has it.")

    def announce(name: str, address: str) -> None:
        if as_json:
            json_line({"name": name, "url": address})
        else:
            say(f"{name} stand-in listens on {address}  (test mode, no real money, mail or machines)")

    serve(bound, announce)
