"""What an installation says about how customers reach it: its domain, its address, and who answers for its names.

The installation's `.env` counts, and what it leaves out is taken from the settings of this process, so that a token may
also stay on the operator's own machine.
"""

import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from wopr.cloud.cloudflare import ANSWER_SECONDS_MAX, TOKEN_REMEDY, Cloudflare
from wopr.cloud.dns import Dns
from wopr.cloud.lookup import Server, servers
from wopr.core.errors import NotConfigured
from wopr.core.settings import Settings
from wopr.delivery.env_rules import public
from wopr.delivery.hosts import Host
from wopr.delivery.place import Place
from wopr.delivery.setup import settings_there

# Nothing is sent there: the question is only which of our addresses would be taken.
SOMEWHERE = ("192.0.2.1", 9)
NAMED_BY_HAND = "Give --address, or set PUBLIC_ADDRESS in .env."


@dataclass(frozen=True)
class EdgeSettings:
    """`address` is empty when nobody said it and the host has none of the internet. `public` is false on a laptop.

    `tls` is `dns` for certificates by DNS-01, else empty: Caddy fetches its own. `roots` is a file of certificates by
    which what the server shows is trusted; None: what everybody trusts.
    """

    domain: str
    public: bool
    installation: str
    address: str
    api_base: str
    token: str = field(repr=False)
    name_servers: tuple[Server, ...] = ()
    tls: str = ""
    https_port: int = 443
    roots: str | None = None

    def require_domain(self) -> str:
        """The domain, when it is one of the internet."""
        if self.public:
            return self.domain
        raise NotConfigured(
            f"The installation serves {self.domain} without a public name.",
            remedy="wopr deploy --set WOPR_DOMAIN=example.com",
        )

    def require_address(self) -> str:
        if self.address:
            return self.address
        raise NotConfigured("It is not known at which address customers reach this host.", remedy=NAMED_BY_HAND)


async def edge_of(host: Host, place: Place, settings: Settings) -> EdgeSettings:
    """What holds for an installation."""
    theirs = await settings_there(host, place)
    return edge_settings(theirs, settings, place.name)


def edge_settings(theirs: Mapping[str, str], settings: Settings, installation: str) -> EdgeSettings:
    """What the variables of an installation say, and this process where they are silent."""
    token = settings.cloudflare_api_token
    # Theirs is a file of the host, which may be another one than where we look from.
    bundles = (theirs.get("ACME_CA_BUNDLE"), str(settings.acme_ca_bundle or ""))
    return EdgeSettings(
        domain=theirs.get("WOPR_DOMAIN", "localhost").lower(),
        public=public(theirs),
        installation=installation,
        address=theirs.get("PUBLIC_ADDRESS") or settings.public_address,
        api_base=(theirs.get("CLOUDFLARE_API_BASE") or settings.cloudflare_api_base).rstrip("/"),
        token=theirs.get("CLOUDFLARE_API_TOKEN") or (token.get_secret_value() if token else ""),
        name_servers=tuple(servers(theirs.get("DNS_SERVERS") or settings.dns_servers)),
        tls=theirs.get("WOPR_TLS", ""),
        https_port=int(theirs.get("HTTPS_PORT") or 443),
        roots=next((file for file in bundles if file and Path(file).exists()), None),
    )


@asynccontextmanager
async def dns_of(edge: EdgeSettings) -> AsyncIterator[Dns]:
    """The company that answers for the domain; NotConfigured without its token."""
    if not edge.token:
        raise NotConfigured("DNS records need CLOUDFLARE_API_TOKEN, which is not set.", remedy=TOKEN_REMEDY)
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS_MAX) as http:
        yield Cloudflare(http, edge.api_base, edge.token)


def address_of(host: str) -> str:
    """The address that is known without asking anybody: of this machine, or one in `user@address[:port]`."""
    there = host.rpartition("@")[2].partition(":")[0]
    return there if is_address(there) else "" if host else own_address()


def is_address(text: str) -> bool:
    """Whether it is an IPv4 address."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def own_address() -> str:
    """This machine's address when it is one of the internet; empty when it stands behind another."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(SOMEWHERE)
        except OSError:
            return ""
        address: str = probe.getsockname()[0]
    return address if ipaddress.ip_address(address).is_global else ""
