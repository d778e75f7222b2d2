"""Which names lead to an installation, and what has to change in a zone for them to: a pure plan.

Our records say so in their comment. Only those are changed or removed; where somebody else's record stands in the way
it is named, and replaced only when that was asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from wopr.cloud.dns import DnsRecord

MARK = "managed by wopr: "
# What decides where a name leads. Records of other types (TXT, MX, CAA) stand beside ours and are nobody's business.
LEADING = ("A", "AAAA", "CNAME")
BOTS_LABEL = "bots"


def names_of(domain: str) -> tuple[str, ...]:
    """The names for which Caddy has sites; see deploy/Caddyfile."""
    return (domain, f"api.{domain}", f"app.{domain}", f"*.{BOTS_LABEL}.{domain}")


def wanted(domain: str, address: str, installation: str) -> Sequence[DnsRecord]:
    """The records of an installation: each name at the address of its host, with the proxy off."""
    return [DnsRecord(name, "A", address, comment=MARK + installation) for name in names_of(domain)]


@dataclass(frozen=True)
class Plan:
    """What to do to a zone. `change` holds each record as it is to be, with its id, and `before` the same as they are.

    `others` are records of other people that lead our names elsewhere; they are in `replaced` where they give way.
    """

    create: list[DnsRecord] = field(default_factory=list)
    change: list[DnsRecord] = field(default_factory=list)
    before: list[DnsRecord] = field(default_factory=list)
    delete: list[DnsRecord] = field(default_factory=list)
    kept: list[DnsRecord] = field(default_factory=list)
    others: list[DnsRecord] = field(default_factory=list)

    @property
    def changes(self) -> int:
        return len(self.create) + len(self.change) + len(self.delete)


def plan(wishes: Sequence[DnsRecord], existing: Sequence[DnsRecord], *, replace_others: bool = False) -> Plan:
    """How a zone with `existing` comes to lead every wished name where it should, and no name of ours elsewhere."""
    found = Plan()
    mark = wishes[0].comment if wishes else MARK
    names = {wish.name for wish in wishes}
    for wish in wishes:
        _plan_name(found, wish, [r for r in existing if r.name == wish.name and r.type in LEADING], replace_others)
    found.delete.extend(r for r in existing if r.comment == mark and r.name not in names)
    return found


def _plan_name(found: Plan, wish: DnsRecord, here: Sequence[DnsRecord], replace_others: bool) -> None:
    ours = [record for record in here if record.comment == wish.comment]
    others = [record for record in here if record.comment != wish.comment]
    right = next((record for record in here if _leads(record, wish)), None)
    astray = [record for record in others if not _leads(record, wish)]
    found.others.extend(astray)
    if astray and not replace_others:
        found.kept.extend(ours)
        return
    # A record of the right type is changed in place, so that the name always leads somewhere.
    movable = next((record for record in (*ours, *astray) if record.type == wish.type), None)
    stays = right or movable
    found.delete.extend(record for record in (*ours, *astray) if record is not stays)
    if right is not None:
        found.kept.append(right)
    elif movable is not None:
        found.before.append(movable)
        found.change.append(replace(wish, id=movable.id))
    else:
        found.create.append(wish)


def _leads(record: DnsRecord, wish: DnsRecord) -> bool:
    return (record.type, record.content, record.proxied) == (wish.type, wish.content, False)
