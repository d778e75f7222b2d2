"""How it stands with the certificate of an installation: what lies in its folder, what its server shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from wopr.cloud import certificate as certificates
from wopr.cloud.certificate import Certificate, Served
from wopr.core.errors import Invalid
from wopr.delivery import commands
from wopr.delivery.certificates import Attempts, read_attempts, wanted_names
from wopr.delivery.edge import EdgeSettings
from wopr.delivery.hosts import Host
from wopr.delivery.place import Place

BY_DNS = "dns"
KEY_MODE = "600"
# Caddy renews when a third is left, and so do we: less than this means that renewing has failed for long.
LATE = timedelta(days=10)
LATE_SHARE = 1 / 6
ISSUE, RENEW = "wopr certs issue", "wopr certs renew --force"


@dataclass(frozen=True)
class CertificateSeen:
    """`stored` and what goes with it are of certificates by DNS-01; `served` is None where nobody asked."""

    domain: str
    by_dns: bool
    names: tuple[str, ...]
    stored: Certificate | None
    mode: str
    attempts: Attempts
    served: Served | None


@dataclass(frozen=True)
class CertificateFault:
    """What is wrong and what to do. `late` marks what is not broken yet."""

    says: str
    remedy: str
    late: bool = False
    served: bool = False


async def look_certificate(host: Host, place: Place, edge: EdgeSettings, *, ask: bool = True) -> CertificateSeen:
    """What there is. The server is asked at the installation's address, whatever the names lead to."""
    by_dns = edge.tls == BY_DNS
    served = None
    if ask:
        served = await certificates.served(edge.domain, edge.address or edge.domain, edge.https_port, edge.roots)
    mode = (await host.run(commands.mode_of(place.served))).text
    attempts = read_attempts((await host.read(place.attempts) or b"").decode())
    stored = _parsed(await host.read(place.chain))
    return CertificateSeen(edge.domain, by_dns, wanted_names(edge.domain), stored, mode, attempts, served)


def faults(seen: CertificateSeen, now: datetime) -> Sequence[CertificateFault]:
    """Everything that is wrong; pure."""
    return [*(_stored_wrong(seen, now) if seen.by_dns else ()), *_served_wrong(seen, now)]


def as_json(seen: CertificateSeen, wrong: Sequence[CertificateFault]) -> dict[str, Any]:
    """What `wopr certs status --json` writes."""

    def told(certificate: Certificate | None) -> dict[str, Any] | None:
        if certificate is None:
            return None
        written = {"names": certificate.names, "issuer": certificate.issuer, "serial": certificate.serial}
        times = {"from": certificate.not_before, "until": certificate.not_after, "renew": certificate.renew_from()}
        return written | {name: time.isoformat() for name, time in times.items()}

    served = {"certificate": told(seen.served.certificate), "error": seen.served.error} if seen.served else None
    return {
        "ok": not wrong,
        "by_dns": seen.by_dns,
        "stored": told(seen.stored),
        "served": served,
        "last_error": seen.attempts.error,
        "faults": [{"says": fault.says, "remedy": fault.remedy} for fault in wrong],
    }


def _stored_wrong(seen: CertificateSeen, now: datetime) -> Sequence[CertificateFault]:
    found = []
    because = f": {seen.attempts.error}" if seen.attempts.error else ""
    if seen.stored is None:
        return [CertificateFault(f"no certificate was fetched yet{because}", ISSUE)]
    reason = certificates.due(seen.stored, seen.names, now)
    if reason and (seen.stored.not_after <= now or "cover" in reason):
        found.append(CertificateFault(f"the certificate is of no use: {reason}{because}", RENEW))
    elif reason and seen.stored.left(now) < _late(seen.stored):
        found.append(CertificateFault(f"renewing is late: {reason}{because}", RENEW, late=True))
    elif seen.attempts.error:
        found.append(CertificateFault(f"the last renewal failed{because}", RENEW, late=True))
    if not seen.stored.chained:
        found.append(CertificateFault("its chain is broken: one is not signed by the next", RENEW))
    if seen.mode and seen.mode.lstrip("0") != KEY_MODE:
        found.append(CertificateFault(f"the key has mode {seen.mode}", "chmod 600 certificates/served/certificate.pem"))
    return found


def _served_wrong(seen: CertificateSeen, now: datetime) -> Sequence[CertificateFault]:
    if seen.served is None:
        return []

    def fault(says: str, remedy: str, *, late: bool = False) -> CertificateFault:
        return CertificateFault(says, remedy, late, served=True)

    shown, remedy = seen.served.certificate, RENEW if seen.by_dns else "docker logs wopr-caddy"
    if shown is None:
        return [fault(f"no certificate is shown: {seen.served.error}", ISSUE if seen.by_dns else remedy)]
    if shown.not_after <= now:
        return [fault(f"the certificate that is shown expired on {shown.not_after:%Y-%m-%d}", remedy)]
    if seen.served.error:
        return [fault(f"browsers refuse what is shown: {seen.served.error}", remedy)]
    if seen.stored and shown.serial != seen.stored.serial:
        return [fault("another certificate is shown than the one that was fetched", "docker restart wopr-caddy")]
    if shown.left(now) < _late(shown):
        return [fault(f"it expires on {shown.not_after:%Y-%m-%d} and was not renewed", remedy, late=True)]
    return []


def _late(certificate: Certificate) -> timedelta:
    """What is left when renewing should have happened long ago, also for certificates that live for days only."""
    return min(LATE, (certificate.not_after - certificate.not_before) * LATE_SHARE)


def _parsed(pem: bytes | None) -> Certificate | None:
    try:
        return certificates.read(pem) if pem else None
    except Invalid:
        return None
