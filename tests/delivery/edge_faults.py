"""Faults of names, certificates and restarts: no installation of the tests has public names, or dies by itself.

They are planted into the stand-ins with which the tests of their checks work: Cloudflare with its name server, a
certificate in an installation's folder, what was seen of a server's certificate and of the engine's containers.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from tests.delivery.authority import TOKEN, Made, Zone, self_signed, zone
from tests.delivery.test_stack_checks import container, stack

from wopr.cloud import certificate as certificates
from wopr.cloud.certificate import Served
from wopr.core.settings import Settings
from wopr.delivery.certificate_look import CertificateSeen
from wopr.delivery.certificates import Attempts, wanted_names
from wopr.delivery.edge_checks import certificate_shown, checks
from wopr.delivery.hosts import LocalHost
from wopr.delivery.names import names_of
from wopr.delivery.place import Place
from wopr.delivery.stack_checks import Stack, restarts
from wopr.ops.checks import Finding, run_checks

DOMAIN, HERE, ELSEWHERE = "wopr.bot", "203.0.113.7", "203.0.113.99"
LONG, SOON, OVER = timedelta(days=80), timedelta(days=9), timedelta(days=-1)


@dataclass
class Edge:
    """What a sound installation shows: its names' records, its folder, its server's certificate, its containers."""

    folder: Path
    zone: Zone
    shown: CertificateSeen
    stack: Stack

    def found(self, check: str) -> Finding:
        """What this check says of it."""
        match check:
            case "tls.shown":
                return certificate_shown(self.shown, datetime.now(UTC))
            case "stack.restarts":
                return restarts(self.stack)
        every = checks(LocalHost(), Place(str(self.folder)), Settings(wopr_home=self.folder))
        (outcome,) = asyncio.run(run_checks([one for one in every if one.name == check]))
        return outcome.finding

    def record(self, name: str, **changes: object) -> None:
        """Change a record, as somebody does in the company's dashboard; without changes it is deleted."""
        with self._cloudflare() as (client, where):
            (found,) = (one for one in client.get(where).json()["result"] if one["name"] == name)
            method = "PATCH" if changes else "DELETE"
            client.request(method, f"{where}/{found['id']}", json=changes or None).raise_for_status()

    def certificate(self, left: timedelta) -> None:
        """The certificate in the folder is good for so long."""
        made = _made(left)
        place = Place(str(self.folder))
        for path, data in ((place.chain, made.certificate), (place.served, made.certificate + made.key)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(data)
            Path(path).chmod(0o600)

    def add_records(self) -> None:
        with self._cloudflare() as (client, where):
            for name in names_of(DOMAIN):
                client.post(where, json={"type": "A", "name": name, "content": HERE}).raise_for_status()

    @contextmanager
    def _cloudflare(self) -> Iterator[tuple[httpx.Client, str]]:
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=f"{self.zone.url}/client/v4", headers=headers) as client:
            yield client, f"/zones/{client.get('/zones').json()['result'][0]['id']}/dns_records"


@dataclass(frozen=True)
class EdgeFault:
    """What is done to a sound edge, and the check that must complain."""

    name: str
    check: str
    plant: Callable[[Edge], object]


@contextmanager
def sound_edge(folder: Path) -> Iterator[Edge]:
    """An edge of which no check complains."""
    with zone(folder) as names:
        lines = {"WOPR_DOMAIN": DOMAIN, "CLOUDFLARE_API_TOKEN": TOKEN, "PUBLIC_ADDRESS": HERE, "WOPR_TLS": "dns"}
        lines |= {"CLOUDFLARE_API_BASE": f"{names.url}/client/v4", "DNS_SERVERS": names.server}
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        edge = Edge(folder, names, _seen(LONG), stack())
        edge.add_records()
        edge.certificate(LONG)
        yield edge


def _made(left: timedelta) -> Made:
    until = datetime.now(UTC) + left
    return self_signed(list(wanted_names(DOMAIN)), until, until - timedelta(days=90))


def _seen(left: timedelta) -> CertificateSeen:
    """A server that shows a certificate of Caddy's own, which is good for so long."""
    shown = Served(certificates.read(_made(left).certificate))
    return CertificateSeen(DOMAIN, False, wanted_names(DOMAIN), None, "", Attempts(), shown)


def _shows(left: timedelta) -> Callable[[Edge], None]:
    def plant(edge: Edge) -> None:
        edge.shown = _seen(left)

    return plant


def _refused(edge: Edge) -> None:
    edge.shown = replace(edge.shown, served=Served(None, "refused"))


def _dies(service: str) -> Callable[[Edge], None]:
    """It runs at this moment, as what dies every few seconds does at most looks."""

    def plant(edge: Edge) -> None:
        edge.stack = stack(container(service, restarts=40))

    return plant


API, BOTS = f"api.{DOMAIN}", f"*.bots.{DOMAIN}"
EDGE_FAULTS = (
    EdgeFault("a record leads elsewhere", "dns.records", lambda edge: edge.record(API, content=ELSEWHERE)),
    EdgeFault("a name is answered with elsewhere", "dns.answers", lambda edge: edge.record(API, content=ELSEWHERE)),
    EdgeFault("the bots' record is gone", "dns.records", lambda edge: edge.record(BOTS)),
    EdgeFault("the bots' names are not answered", "dns.answers", lambda edge: edge.record(BOTS)),
    EdgeFault("a record is proxied", "dns.records", lambda edge: edge.record(API, proxied=True)),
    EdgeFault("the certificate is near its end", "tls.certificate", lambda edge: edge.certificate(SOON)),
    EdgeFault("the certificate is over", "tls.certificate", lambda edge: edge.certificate(OVER)),
    EdgeFault("a certificate near its end is shown", "tls.shown", _shows(SOON)),
    EdgeFault("a certificate that is over is shown", "tls.shown", _shows(OVER)),
    EdgeFault("no certificate is shown", "tls.shown", _refused),
    EdgeFault("Caddy dies again and again", "stack.restarts", _dies("caddy")),
    EdgeFault("the UI dies again and again", "stack.restarts", _dies("ui-green")),
)
