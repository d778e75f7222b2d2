"""Whether the names of an installation lead to it: what the company's API says, and what name servers really answer."""

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from wopr.cloud.dns import DnsRecord, Zone
from wopr.cloud.lookup import Answered, Server, ask, servers_named
from wopr.delivery.edge import EdgeSettings, dns_of
from wopr.delivery.names import LEADING, names_of

# A name below a wildcard, which nobody has.
BELOW_WILDCARD = "wopr-check"
# https://www.cloudflare.com/ips/: what a proxied name answers with.
PROXIES = tuple(
    ipaddress.ip_network(network)
    for network in (
        "173.245.48.0/20", "103.21.244.0/22", "103.22.200.0/22", "103.31.4.0/22", "141.101.64.0/18",
        "108.162.192.0/18", "190.93.240.0/20", "188.114.96.0/20", "197.234.240.0/22", "198.41.128.0/17",
        "162.158.0.0/15", "104.16.0.0/13", "104.24.0.0/14", "172.64.0.0/13", "131.0.72.0/22",
    )
)  # fmt: skip
PROXY_OFF = "wopr dns apply  (or in Cloudflare's dashboard: the orange cloud of this record to grey)"
MEND = "wopr dns apply"
OTHERS = "wopr dns apply --replace, when that record may go"
LATER = "Wait for the record's time to live, then look again: wopr dns check"


@dataclass(frozen=True)
class NameSeen:
    """One name as it was seen. `records` is None where the API could not be asked."""

    name: str
    records: Sequence[DnsRecord] | None
    answers: Sequence[Answered]
    six: Sequence[Answered] = ()


@dataclass(frozen=True)
class NameFault:
    """What is wrong with a name and what to do. `asked` tells what the API says apart from what servers answer."""

    name: str
    says: str
    remedy: str
    asked: str


async def look_names(edge: EdgeSettings) -> Sequence[NameSeen]:
    """Every name of the installation. Without a token the API is left out; CloudError when it refuses."""
    zone, records = await _recorded(edge)
    asked: Sequence[Server | None] = edge.name_servers
    if not asked:
        asked = [*(await servers_named(zone.name_servers) if zone else ()), None]

    async def look(name: str) -> NameSeen:
        whole = name.replace("*", BELOW_WILDCARD, 1)
        four = asyncio.gather(*(ask(whole, "A", server) for server in asked))
        six = asyncio.gather(*(ask(whole, "AAAA", server) for server in asked))
        here = None if records is None else [r for r in records if r.name == name and r.type in LEADING]
        return NameSeen(name, here, await four, await six)

    return await asyncio.gather(*map(look, names_of(edge.domain)))


async def _recorded(edge: EdgeSettings) -> tuple[Zone | None, Sequence[DnsRecord] | None]:
    if not edge.token:
        return None, None
    async with dns_of(edge) as dns:
        zone = await dns.zone_of(edge.domain)
        return zone, await dns.records(zone)


def faults(seen: Sequence[NameSeen], address: str) -> Sequence[NameFault]:
    """Everything that is wrong, in the order of the names; pure."""
    return [fault for name in seen for fault in (*_recorded_wrong(name, address), *_answered_wrong(name, address))]


def _recorded_wrong(seen: NameSeen, address: str) -> Sequence[NameFault]:
    if seen.records is None:
        return []

    def fault(says: str, remedy: str) -> NameFault:
        return NameFault(seen.name, f"{seen.name} {says}", remedy, "records")

    if not seen.records:
        return [fault("has no record", MEND)]
    found = [fault(f"is proxied ({r.type} {r.content})", PROXY_OFF) for r in seen.records if r.proxied]
    for record in (record for record in seen.records if not record.proxied):
        if (record.type, record.content) != ("A", address):
            remedy = MEND if record.comment else OTHERS
            found.append(fault(f"leads to {record.content} ({record.type}), not to {address}", remedy))
    return found


def _answered_wrong(seen: NameSeen, address: str) -> Sequence[NameFault]:
    found = []
    for answered in seen.answers:
        if answered.values == (address,):
            continue
        if any(_is_proxy(value) for value in answered.values):
            says, remedy = "answers with Cloudflare's proxy", PROXY_OFF
        elif answered.values:
            says, remedy = f"answers {', '.join(answered.values)}, not {address}", LATER
        else:
            says, remedy = f"has no answer: {answered.error}", MEND
        found.append(NameFault(seen.name, f"{seen.name} {says} (asked: {answered.server})", remedy, "answers"))
    for answered in seen.six:
        if answered.values and not any(_is_proxy(value) for one in seen.answers for value in one.values):
            says = f"{seen.name} leads over IPv6 to {answered.values[0]} (asked: {answered.server})"
            found.append(NameFault(seen.name, says, OTHERS, "answers"))
    return found


def _is_proxy(value: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return any(address in network for network in PROXIES)
