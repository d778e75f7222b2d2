"""Checks of how customers reach an installation: its names, what answers for them, the certificate that is shown."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from wopr.core.errors import WoprError
from wopr.core.settings import Settings
from wopr.delivery.certificate_look import CertificateFault, CertificateSeen, look_certificate
from wopr.delivery.certificate_look import faults as certificate_faults
from wopr.delivery.edge import NAMED_BY_HAND, EdgeSettings, edge_of
from wopr.delivery.hosts import Host
from wopr.delivery.name_look import NameFault, faults, look_names
from wopr.delivery.place import Place
from wopr.ops.checks import Check, Finding, failed, ok, skipped, warning

SHOWN_MAX = 4
Look = Callable[[EdgeSettings], Awaitable[Finding]]


def checks(host: Host, place: Place, settings: Settings, address: str = "") -> Sequence[Check]:
    """Every check of the edge; where nothing is public there is nothing to look at.

    `address` is where the host is reached, where nobody set PUBLIC_ADDRESS.
    """

    def check(name: str, proves: str, look: Look) -> Check:
        async def looked() -> Finding:
            edge = await edge_of(host, place, settings)
            if not edge.public:
                return skipped(f"{edge.domain} is not public")
            try:
                return await look(replace(edge, address=edge.address or address))
            except WoprError as error:
                return failed(error.message, error.remedy)

        return Check(name, proves, looked)

    async def stored(edge: EdgeSettings) -> Finding:
        return certificate_fetched(await look_certificate(host, place, edge, ask=False), datetime.now(UTC))

    async def shown(edge: EdgeSettings) -> Finding:
        return certificate_shown(await look_certificate(host, place, edge), datetime.now(UTC))

    return [
        check("dns.records", "the records of our names lead to this host, with the proxy off", records),
        check("dns.answers", "name servers answer so", answers),
        check("tls.certificate", "the certificate by DNS-01 is good for long and is renewed", stored),
        check("tls.shown", "the server shows a certificate that browsers accept", shown),
    ]


async def records(edge: EdgeSettings) -> Finding:
    """What the company's API says."""
    if not edge.token:
        return skipped("CLOUDFLARE_API_TOKEN is not set")
    return await _named(edge, "records")


async def answers(edge: EdgeSettings) -> Finding:
    """What name servers say, whatever the API does."""
    return await _named(replace(edge, token=""), "answers")


async def _named(edge: EdgeSettings, asked: str) -> Finding:
    if not edge.address:
        return skipped(f"the host's public address is not known: {NAMED_BY_HAND}")
    seen = await look_names(edge)
    wrong: Sequence[NameFault] = [fault for fault in faults(seen, edge.address) if fault.asked == asked]
    if not wrong:
        return ok(f"{len(seen)} names lead to {edge.address}")
    return failed(_told([fault.says for fault in wrong]), wrong[0].remedy)


def certificate_fetched(seen: CertificateSeen, now: datetime) -> Finding:
    """What lies in the installation's folder; pure."""
    if not seen.by_dns:
        return skipped("Caddy fetches its own; WOPR_TLS=dns fetches one for all names")
    wrong = [fault for fault in certificate_faults(seen, now) if not fault.served]
    return _judged(wrong, f"until {seen.stored.not_after:%Y-%m-%d}" if seen.stored else "")


def certificate_shown(seen: CertificateSeen, now: datetime) -> Finding:
    """What the server shows; pure."""
    wrong = [fault for fault in certificate_faults(seen, now) if fault.served]
    shown = seen.served.certificate if seen.served else None
    return _judged(wrong, f"until {shown.not_after:%Y-%m-%d}, signed by {shown.issuer}" if shown else "")


def _judged(wrong: Sequence[CertificateFault], sound: str) -> Finding:
    if not wrong:
        return ok(sound)
    worst = warning if all(fault.late for fault in wrong) else failed
    return worst(_told([fault.says for fault in wrong]), wrong[0].remedy)


def _told(says: Sequence[str]) -> str:
    more = f"; and {len(says) - SHOWN_MAX} more" if len(says) > SHOWN_MAX else ""
    return "; ".join(says[:SHOWN_MAX]) + more
