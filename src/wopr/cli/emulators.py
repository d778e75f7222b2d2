"""`wopr emulators`: the stand-ins for outside companies, each runnable as a process of its own."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wopr.cli.output import JsonOption, fail, json_line, progress, say
from wopr.cli.ports import PORT_MAX
from wopr.cli.progress import ProgressKind

if TYPE_CHECKING:
    from wopr.emulators.digitalocean.app import MachinesOf
    from wopr.emulators.digitalocean.containers import ContainerSettings
    from wopr.emulators.digitalocean.image import Stage
    from wopr.emulators.nameserver import NameServer
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
MachinesOption = Annotated[
    MachineKind,
    typer.Option(help="What stands behind a droplet: an entry in the state, or a machine in a container."),
]
BaseImageOption = Annotated[
    str, typer.Option(help="Debian 12 from which the machines' image is built; empty: the public one.")
]
BootDelayOption = Annotated[float, typer.Option(min=0, help="Seconds before a machine's system begins.")]
NameServerOption = Annotated[
    str, typer.Option(help="Name server of the Cloudflare stand-in, which machines ask first; empty: none.")
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
    machines: MachinesOption = MachineKind.SIMULATED,
    base_image: BaseImageOption = "",
    boot_delay: BootDelayOption = 0.0,
    name_server: NameServerOption = f"127.0.0.1:{PORTS['cloudflare'] + DNS_BEHIND}",
    plain_registry: Annotated[
        list[str] | None,
        typer.Option(help="Registry, host:port, from which machines in containers pull without TLS; may be repeated."),
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option(help="File of root certificates that machines trust besides the usual ones.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the stand-in for DigitalOcean: API, and a page that shows the droplets and what they would cost."""
    made = _container_settings(base_image, boot_delay, name_server, as_json)
    behind = _machines(machines, boot_delay, replace(made, insecure_registries=tuple(plain_registry or ())))
    roots = trust.read_text(encoding="ascii") if trust else ""
    _run([_digitalocean(_folder(state), host, port, behind, roots)], as_json)


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
    _run([_cloudflare(_folder(state), host, port, _name_server(host, port, dns_port), zone)], as_json)


@app.command(
    "all",
    epilog="Examples: wopr emulators all --machines containers | wopr emulators all --only stripe --only resend",
)
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
    machines: MachinesOption = MachineKind.SIMULATED,
    base_image: BaseImageOption = "",
    boot_delay: BootDelayOption = 0.0,
    only: Annotated[list[str] | None, typer.Option(help="One of them alone; repeat for several.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run every stand-in in one process."""
    wanted = only or list(PORTS)
    if unknown := sorted(set(wanted) - set(PORTS)):
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(PORTS)}", param_hint="--only")
    ports = {name: port + at - STRIPE_PORT if port else 0 for name, at in PORTS.items()}
    server = _name_server(host, ports["cloudflare"], dns_port) if "cloudflare" in wanted else None
    asked = f"{server.host}:{server.port}" if server else ""
    behind = _machines(machines, boot_delay, _container_settings(base_image, boot_delay, asked, as_json))
    folder = _folder(state)
    makers: Mapping[str, Callable[[int], Served]] = {
        "stripe": lambda at: _stripe(folder, host, at, _hooks(webhook_url, webhook_secret, "")),
        "resend": lambda at: _resend(folder, host, at, strict),
        "digitalocean": lambda at: _digitalocean(folder, host, at, behind),
        "cloudflare": lambda at: _cloudflare(folder, host, at, server, None),
    }
    _run([make(ports[name]) for name, make in makers.items() if name in wanted], as_json)


def _hooks(webhook_url: str, webhook_secret: str, public_url: str) -> "StripeSettings":
    from wopr.cloud.lookup import servers
    from wopr.cloud.outside import transport
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
        webhook_transport=transport(servers(settings.dns_servers), settings.acme_ca_bundle),
    )


def _stripe(folder: Path, host: str, port: int, settings: "StripeSettings") -> "Served":
    from wopr.emulators.serving import Served
    from wopr.emulators.stripe import build_stripe

    return Served("stripe", build_stripe(replace(settings, state=folder / "stripe.sqlite3")), host, port)


def _resend(folder: Path, host: str, port: int, strict: bool) -> "Served":
    from wopr.emulators.resend import ResendSettings, build_resend
    from wopr.emulators.serving import Served

    return Served("resend", build_resend(ResendSettings(folder / "resend.sqlite3", strict=strict)), host, port)


def _machines(kind: MachineKind, boot_delay: float, settings: "ContainerSettings") -> "MachinesOf":
    from wopr.emulators.digitalocean.containers import Containers
    from wopr.emulators.digitalocean.simulated import Simulated

    if kind is MachineKind.SIMULATED:
        return lambda world: Simulated(world.documents, boot_delay)
    return lambda world: Containers(world, settings)


def _container_settings(base_image: str, boot_delay: float, name_server: str, as_json: bool) -> "ContainerSettings":
    from wopr.cloud.lookup import servers
    from wopr.core.errors import Invalid
    from wopr.emulators.digitalocean.containers import ContainerSettings
    from wopr.emulators.digitalocean.image import BASE_IMAGE
    from wopr.emulators.digitalocean.resolver import Place

    try:
        zones = [Place(server.address, server.port) for server in servers(name_server)]
    except Invalid:
        raise typer.BadParameter("write it as 127.0.0.1:4153", param_hint="--name-server") from None
    return ContainerSettings(base_image or BASE_IMAGE, boot_delay, next(iter(zones), None), _stage(as_json))


def _stage(as_json: bool) -> "Stage":
    told = progress(ProgressKind.AUTO, as_json=as_json)
    return lambda what: told.stage("", what)


def _digitalocean(folder: Path, host: str, port: int, machines: "MachinesOf", roots: str = "") -> "Served":
    from wopr.core.settings import load_settings
    from wopr.emulators.digitalocean import DigitalOceanSettings, build_digitalocean
    from wopr.emulators.serving import Served

    name = load_settings().installation
    settings = DigitalOceanSettings(folder / "digitalocean.sqlite3", installation=name, trusted_roots=roots)
    return Served("digitalocean", build_digitalocean(settings, machines), host, port)


def _name_server(host: str, port: int, dns_port: int | None) -> "NameServer":
    """The one behind Cloudflare, which listens from now on. `port` is Cloudflare's."""
    from wopr.emulators.nameserver import NameServer

    at = dns_port if dns_port is not None else port and port + DNS_BEHIND
    try:
        return NameServer(host, at)
    except OSError as error:
        taken = f"The name server of the Cloudflare stand-in can't listen on {host}:{at}: {error.strerror}."
        fail(taken, remedy="Choose another port with --dns-port, or end the process that has it.")


def _cloudflare(folder: Path, host: str, port: int, server: "NameServer | None", zones: list[str] | None) -> "Served":
    from wopr.emulators.cloudflare import CloudflareSettings, build_cloudflare
    from wopr.emulators.serving import Served

    settings = CloudflareSettings(folder / "cloudflare.sqlite3", zones=tuple(zones or CloudflareSettings.zones))
    more = {"dns": f"{server.host}:{server.port}"} if server else {}
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
