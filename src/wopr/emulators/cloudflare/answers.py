"""What the name server answers, as a pure function of a query and the zones.

Follows RFC 1034 and 4592 (wildcards, names that exist only because something lies below them) and Cloudflare's own
ways: a proxied record answers with Cloudflare's addresses instead of ours, and a CNAME at the top of a zone with its
target's.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

AUTOMATIC_SECONDS = 300
NAME_SERVER_SECONDS = 86_400
SOA_SECONDS = 1800
SOA_TIMES = "10000 2400 604800 1800"
CNAMES_MAX = 8
TXT_BYTES_MAX = 255
PROXIED = ("A", "AAAA", "CNAME")

Record = Mapping[str, Any]  # a document of the store
Owned = tuple[str, str, int, Sequence[str]]  # name, type, seconds, values


@dataclass(frozen=True)
class Zone:
    """A zone with everything in it."""

    name: str
    serial: int
    name_servers: Sequence[str]
    records: Sequence[Record]


FindZone = Callable[[str], Zone | None]


@dataclass(frozen=True)
class Asked:
    """A name and a type, where zones are found, and how many aliases may still be followed."""

    name: str
    wanted: str
    zone_of: FindZone
    steps_left: int = CNAMES_MAX


def answer(query: dns.message.Message, zone_of: FindZone) -> dns.message.Message:
    """The response; `zone_of` finds the zone that a name lies in."""
    response = dns.message.make_response(query)
    if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
        response.set_rcode(dns.rcode.NOTIMP)
        return response
    question = query.question[0]
    name = _text(question.name)
    zone = zone_of(name)
    if zone is None or question.rdclass != dns.rdataclass.IN:
        response.set_rcode(dns.rcode.REFUSED)
        return response
    response.flags |= dns.flags.AA
    exists, found = resolve(zone, Asked(name, dns.rdatatype.to_text(question.rdtype), zone_of))
    response.answer += [_rrset(owned) for owned in found]
    if not found:
        response.authority.append(_rrset(_soa(zone)))
    if not exists:
        response.set_rcode(dns.rcode.NXDOMAIN)
    return response


def resolve(zone: Zone, asked: Asked) -> tuple[bool, list[Owned]]:
    """Whether the name exists, and its records of the type, through aliases as far as our zones know them."""
    name, wanted = asked.name, asked.wanted
    owner = _owner(zone, name)
    if owner is None:
        return False, []
    here = [record for record in zone.records if record["name"] == owner]
    alias = next((r for r in here if r["type"] == "CNAME" and not r["proxied"]), None)
    if alias is not None and wanted != "CNAME" and asked.steps_left:
        return _through(zone, alias, asked)
    if wanted in ("A", "AAAA") and any(r["proxied"] for r in here if r["type"] in PROXIED):
        return True, [(name, wanted, AUTOMATIC_SECONDS, proxies(name, wanted))]
    found = _own(zone, asked)
    matching = [r for r in here if r["type"] == wanted and not (r["proxied"] and wanted in PROXIED)]
    if matching:
        found.append((name, wanted, _seconds(matching[0]), [_value(record) for record in matching]))
    return True, found


def proxies(name: str, wanted: str) -> Sequence[str]:
    """The addresses at which Cloudflare would stand for a proxied name: two of each family, always the same."""
    one, two, three, four = hashlib.sha256(name.encode()).digest()[:4]
    if wanted == "A":
        return f"104.21.{one % 96}.{two}", f"172.67.{128 + three % 96}.{four}"
    return f"2606:4700:3030::6815:{one:02x}{two:02x}", f"2606:4700:3035::ac43:{three:02x}{four:02x}"


def _through(zone: Zone, alias: Record, asked: Asked) -> tuple[bool, list[Owned]]:
    target = str(alias["content"])
    there = asked.zone_of(target)
    further = replace(asked, name=target, steps_left=asked.steps_left - 1)
    exists, found = resolve(there, further) if there else (True, [])
    if asked.name == zone.name:
        # RFC 1034 allows no alias beside SOA and NS: Cloudflare answers with what it leads to, under our name.
        own = [(asked.name, kind, seconds, values) for _, kind, seconds, values in found if kind == asked.wanted]
        return True, own or _own(zone, asked)
    return exists, [(asked.name, "CNAME", _seconds(alias), [f"{target}."]), *found]


def _own(zone: Zone, asked: Asked) -> list[Owned]:
    """What every zone has at its top without anybody's doing."""
    if asked.name == zone.name and asked.wanted == "SOA":
        return [_soa(zone)]
    if asked.name == zone.name and asked.wanted == "NS":
        return [(zone.name, "NS", NAME_SERVER_SECONDS, [f"{server}." for server in zone.name_servers])]
    return []


def _soa(zone: Zone) -> Owned:
    first = zone.name_servers[0]
    return zone.name, "SOA", SOA_SECONDS, [f"{first}. dns.cloudflare.com. {zone.serial} {SOA_TIMES}"]


def _owner(zone: Zone, name: str) -> str | None:
    """The name whose records answer for `name`: itself, the wildcard beside its closest ancestor, or None."""
    existing = {zone.name, *(above for record in zone.records for above in _ancestors(record["name"], zone.name))}
    if name in existing:
        return name
    closest = next(above for above in _ancestors(name, zone.name) if above in existing)
    return f"*.{closest}" if f"*.{closest}" in existing else None


def _ancestors(name: str, top: str) -> Iterable[str]:
    """The name and those above it, down to the zone's own."""
    while True:
        yield name
        if name == top:
            return
        name = name.partition(".")[2]


def _value(record: Record) -> str:
    content = str(record["content"])
    match record["type"]:
        case "CNAME" | "NS":
            return f"{content}."
        case "MX":
            return f"{record['priority']} {content}."
        case "TXT":
            return " ".join(_quoted(part) for part in _parts(content))
        case _:
            return content


def _parts(content: str) -> Iterable[bytes]:
    """A text in strings that DNS can carry; quotes around the whole of it are how it is written, not part of it."""
    whole = content[1:-1] if len(content) > 1 and content[0] == content[-1] == '"' else content
    raw = whole.encode()
    return (raw[i : i + TXT_BYTES_MAX] for i in range(0, max(len(raw), 1), TXT_BYTES_MAX))


def _quoted(part: bytes) -> str:
    """As a zone file writes it: what is not plain is given by its number."""
    plain = (chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03}" for b in part)
    return f'"{"".join(plain)}"'


def _seconds(record: Record) -> int:
    return AUTOMATIC_SECONDS if record["ttl"] == 1 else int(record["ttl"])


def _rrset(owned: Owned) -> dns.rrset.RRset:
    name, kind, seconds, values = owned
    return dns.rrset.from_text(dns.name.from_text(name), seconds, "IN", kind, *values)


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()
