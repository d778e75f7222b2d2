"""`wopr emulators`: the stand-ins for outside companies, each runnable as a process of its own."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wopr.cli.output import JsonOption, fail, json_line, say
from wopr.cli.ports import PORT_MAX

if TYPE_CHECKING:
    from wopr.emulators.digitalocean.app import MachinesOf
    from wopr.emulators.serving import Served
    from wopr.emulators.stripe import StripeSettings


class MachineKind(StrEnum):
    """What stands behind a droplet."""

    SIMULATED = "simulated"
    CONTAINERS = "containers"


PORTS = {"stripe": 4101, "resend": 4102, "digitalocean": 4103, "cloudflare": 4104}
STRIPE_PORT = PORTS["stripe"]
# The name server's port comes so far behind Cloudflare's.
DNS_BEHIND = 49

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Stand-ins for Stripe, Resend, DigitalOcean and Cloudflare with their real APIs, for development and tests.",
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
ZonesOption = Annotated[list[str] | None, typer.Option("--zone", help="Domain of the account; repeat for several.")]
DnsPortOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=PORT_MAX,
        help="Port of the name server, UDP and TCP; 0 takes a free one; default: 49 behind Cloudflare's.",
        show_default=False,
    ),
]


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
    port: Annotated[int, typer.Option(min=0, max=PORT_MAX, help="Port; 0 takes a free one.")] = PORTS["resend"],
    host: HostOption = "127.0.0.1",
    state: StateOption = None,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run the stand-in for Resend: API, and a page that shows the mails."""
    _run([_resend(_folder(state), host, port, strict)], as_json)


@app.command(
    "digitalocean",
    epilog="Examples: wopr emulators digitalocean | wopr emulators digitalocean --machines containers --boot-delay 5",
)
def digitalocean_command(
    port: Annotated[int, typer.Option(min=0, max=PORT_MAX, help="Port; 0 takes a free one.")] = PORTS["digitalocean"],
    host: HostOption = "127.0.0.1",
    state: StateOption = None,
    machines: Annotated[
        MachineKind,
        typer.Option(help="What stands behind a droplet: an entry in the state, or a machine in a container."),
    ] = MachineKind.SIMULATED,
    base_image: Annotated[
        str, typer.Option(help="Debian 12 from which the machines' image is built; empty: the public one.")
    ] = "",
    boot_delay: Annotated[float, typer.Option(min=0, help="Seconds before a machine's system begins.")] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Run the stand-in for DigitalOcean: API, and a page that shows the droplets and what they would cost."""
    behind = _machines(machines, base_image, boot_delay)
    _run([_digitalocean(_folder(state), host, port, behind)], as_json)


@app.command("cloudflare", epilog="Example: wopr emulators cloudflare --zone example.com --dns-port 5353")
def cloudflare_command(
    port: Annotated[int, typer.Option(min=0, max=PORT_MAX, help="Port; 0 takes a free one.")] = PORTS["cloudflare"],
    host: HostOption = "127.0.0.1",
    state: StateOption = None,
    zone: ZonesOption = None,
    dns_port: DnsPortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the stand-in for Cloudflare: API of zones and records, and a name server that answers from them."""
    _run([_cloudflare(_folder(state), host, port, dns_port, zone)], as_json)


@app.command("all", epilog="Examples: wopr emulators all --port 4101 | wopr emulators all --only stripe --only resend")
def all_command(
    port: Annotated[
        int,
        typer.Option(
            min=0, max=PORT_MAX - 3 - DNS_BEHIND, help="Port of Stripe's; the others' follow it; 0 takes free ones."
        ),
    ] = STRIPE_PORT,
    host: HostOption = "127.0.0.1",
    state: StateOption = None,
    webhook_url: WebhookUrlOption = "",
    webhook_secret: WebhookSecretOption = "",
    strict: StrictOption = False,
    dns_port: DnsPortOption = None,
    only: Annotated[list[str] | None, typer.Option(help="One of them alone; repeat for several.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run every stand-in in one process."""
    wanted = only or list(PORTS)
    if unknown := sorted(set(wanted) - set(PORTS)):
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(PORTS)}", param_hint="--only")
    folder = _folder(state)
    makers: Mapping[str, Callable[[int], Served]] = {
        "stripe": lambda at: _stripe(folder, host, at, _hooks(webhook_url, webhook_secret, "")),
        "resend": lambda at: _resend(folder, host, at, strict),
        "digitalocean": lambda at: _digitalocean(folder, host, at, _machines(MachineKind.SIMULATED, "", 0.0)),
        "cloudflare": lambda at: _cloudflare(folder, host, at, dns_port, None),
    }
    _run(
        [make(port + PORTS[name] - STRIPE_PORT if port else 0) for name, make in makers.items() if name in wanted],
        as_json,
    )


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


def _machines(kind: MachineKind, base_image: str, boot_delay: float) -> "MachinesOf":
    from wopr.emulators.digitalocean.containers import Containers, ContainerSettings
    from wopr.emulators.digitalocean.image import BASE_IMAGE
    from wopr.emulators.digitalocean.simulated import Simulated

    if kind is MachineKind.SIMULATED:
        return lambda world: Simulated(world.documents, boot_delay)
    settings = ContainerSettings(base_image=base_image or BASE_IMAGE, boot_delay_seconds=boot_delay)
    return lambda world: Containers(world, settings)


def _digitalocean(folder: Path, host: str, port: int, machines: "MachinesOf") -> "Served":
    from wopr.core.settings import load_settings
    from wopr.emulators.digitalocean import DigitalOceanSettings, build_digitalocean
    from wopr.emulators.serving import Served

    settings = DigitalOceanSettings(folder / "digitalocean.sqlite3", installation=load_settings().installation)
    return Served("digitalocean", build_digitalocean(settings, machines), host, port)


def _cloudflare(folder: Path, host: str, port: int, dns_port: int | None, zones: list[str] | None) -> "Served":
    from wopr.emulators.cloudflare import CloudflareSettings, NameServer, build_cloudflare
    from wopr.emulators.serving import Served

    at = dns_port if dns_port is not None else port and port + DNS_BEHIND
    try:
        server = NameServer(host, at)
    except OSError as error:
        taken = f"The name server of the Cloudflare stand-in can't listen on {host}:{at}: {error.strerror}."
        fail(taken, remedy="Choose another port with --dns-port, or end the process that has it.")
    settings = CloudflareSettings(folder / "cloudflare.sqlite3", zones=tuple(zones or CloudflareSettings.zones))
    more = {"dns": f"{host}:{server.port}"}
    return Served("cloudflare", build_cloudflare(settings, server), host, port, more)


def _folder(state: Path | None) -> Path:
    from wopr.core.settings import load_settings

    return state if state is not None else load_settings().wopr_home / "emulators"


def _run(applications: "list[Served]", as_json: bool) -> None:
    from wopr.emulators.serving import PortTaken, listen, serve

    try:
        bound = [(one, listen(one)) for one in applications]
    except PortTaken as taken:
        fail(str(taken), remedy="Choose another port with --port, or end the process that has it.")

    more = {one.name: one.more for one in applications}

    def announce(name: str, address: str) -> None:
        if as_json:
            json_line({"name": name, "url": address, **more[name]})
        else:
            also = "".join(f", {what} on {where}" for what, where in more[name].items())
            say(f"{name} stand-in listens on {address}{also}  (test mode: no real money, mail, machines or names)")

    serve(bound, announce)
