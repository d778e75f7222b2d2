"""Firewalls: what reaches and what leaves the droplets that they are put on, by number or by tag.

A droplet with no firewall is reached by everything and reaches everything; with several, what any of them allows
passes, and nothing else does: a firewall without outbound rules lets nothing out but answers.
"""

import ipaddress
import re
import uuid
from collections.abc import Sequence
from typing import Any

from wopr.emulators.digitalocean.errors import conflict, invalid
from wopr.emulators.digitalocean.machines import Opening, Wall
from wopr.emulators.digitalocean.world import World, moment
from wopr.emulators.documents import Document

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]{0,254}")
_PROTOCOLS = ("tcp", "udp", "icmp")
_PORT_MAX = 65_535
_TARGETS = ("addresses", "droplet_ids", "tags", "load_balancer_uids", "kubernetes_ids")
_RULES = {"inbound_rules": "sources", "outbound_rules": "destinations"}


def create(world: World, body: Document) -> Document:
    """A new firewall with its rules, on the droplets and tags that it names."""
    firewall: Document = {"object": "firewall", "id": str(uuid.uuid4()), "created": world.now()}
    return _saved(world, firewall | _read(world, body))


def replace(world: World, firewall: Document, body: Document) -> Document:
    """Everything anew; what the request leaves out is empty afterwards."""
    return _saved(world, firewall | _read(world, body))


def remove(world: World, firewall: Document) -> None:
    """Forget a firewall."""
    world.documents.remove(firewall["id"])
    world.wake()


def change_droplets(world: World, firewall: Document, body: Document, *, add: bool) -> None:
    """Put it on droplets, or take it off."""
    numbers = _droplet_ids(world, body.get("droplet_ids"))
    if not numbers:
        raise invalid("droplet_ids can't be blank.")
    others = [number for number in firewall["droplet_ids"] if number not in numbers]
    _saved(world, firewall | {"droplet_ids": others + numbers if add else others})


def change_tags(world: World, firewall: Document, body: Document, *, add: bool) -> None:
    """Put it on all droplets of tags, or take it off."""
    names = _tags(world, body.get("tags"))
    if not names:
        raise invalid("tags can't be blank.")
    others = [name for name in firewall["tags"] if name not in names]
    _saved(world, firewall | {"tags": others + names if add else others})


def change_rules(world: World, firewall: Document, body: Document, *, add: bool) -> None:
    """Add rules, or take away those that are equal."""
    changed = dict(firewall)
    for name, target in _RULES.items():
        rules = [_rule(world, rule, target) for rule in _list(body.get(name), name)]
        others = [rule for rule in firewall[name] if rule not in rules]
        changed[name] = others + rules if add else others
    _saved(world, changed)


def wall_of(world: World, droplet: Document) -> Wall:
    """What reaches and leaves a droplet, from all firewalls that it is behind."""
    above = [firewall for firewall in world.every("firewall") if _covers(firewall, droplet)]
    if not above:
        return Wall()
    inward, outward = (
        tuple(
            opening
            for firewall in above
            for rule in firewall[name]
            if (opening := _opening(world, rule, rule[target])).peers
        )
        for name, target in _RULES.items()
    )
    return Wall(inward, outward)


def shown(world: World, firewall: Document) -> Document:
    """A firewall as the API shows it; a change that no machine has yet is pending."""
    behind = [droplet for droplet in world.every("droplet") if _covers(firewall, droplet)]
    waiting = [d for d in behind if d["status"] == "active" and d.get("_wall") != wall_mark(wall_of(world, d))]
    names = ("id", "name", "inbound_rules", "outbound_rules", "droplet_ids", "tags")
    answer = {name: firewall[name] for name in names}
    answer |= {"status": "waiting" if waiting else "succeeded", "created_at": moment(firewall["created"])}
    changes = [{"droplet_id": int(d["id"]), "removing": False, "status": "waiting"} for d in waiting]
    return answer | {"pending_changes": changes}


def wall_mark(wall: Wall) -> str:
    """What tells one wall from another."""
    if wall.inward is None and wall.outward is None:
        return "open"
    return f"in: {_marked(wall.inward)}; out: {_marked(wall.outward)}"


def forget_droplet(world: World, number: int) -> None:
    """A droplet that is gone is in no firewall."""
    for firewall in world.every("firewall"):
        if number in firewall["droplet_ids"]:
            left = [one for one in firewall["droplet_ids"] if one != number]
            world.documents.put(firewall | {"droplet_ids": left})


def _saved(world: World, firewall: Document) -> Document:
    world.wake()
    return world.documents.put(firewall)


def _read(world: World, body: Document) -> Document:
    name = body.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid("name must begin with a letter or digit and have letters, digits, dots and dashes only.")
    read: Document = {"name": name, "droplet_ids": _droplet_ids(world, body.get("droplet_ids"))}
    read["tags"] = _tags(world, body.get("tags"))
    for field, target in _RULES.items():
        read[field] = [_rule(world, rule, target) for rule in _list(body.get(field), field)]
    if not read["inbound_rules"] and not read["outbound_rules"]:
        raise invalid("must have at least one rule")
    return read


def _rule(world: World, rule: object, target: str) -> Document:
    if not isinstance(rule, dict) or rule.get("protocol") not in _PROTOCOLS:
        raise invalid(f"protocol must be one of {', '.join(_PROTOCOLS)}.")
    if rule.get("action", "allow") != "allow":
        raise invalid("The stand-in knows rules that allow only.")
    ports = "0" if rule["protocol"] == "icmp" else str(rule.get("ports") or "")
    _ports(ports)
    places = rule.get(target)
    if not isinstance(places, dict) or not any(places.get(name) for name in _TARGETS):
        raise invalid(f"{target} can't be blank.")
    unknown = [name for name in places if name not in _TARGETS[:3]]
    if unknown:
        raise invalid(f"The stand-in knows addresses, droplet_ids and tags as {target}, not {', '.join(unknown)}.")
    for address in _list(places.get("addresses"), "addresses"):
        _range(address)
    _tags(world, places.get("tags"))
    return {"protocol": rule["protocol"], "ports": ports, target: {n: v for n, v in places.items() if v}}


def _ports(ports: str) -> tuple[int, int]:
    """First and last port; `0` and `all` stand for every one."""
    if ports in ("0", "all"):
        return 0, _PORT_MAX
    first, dash, last = ports.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise invalid("ports must be a port, a range such as 8000-9000, or 0 for all.")
    bounds = int(first), int(last or first)
    if not 1 <= bounds[0] <= bounds[1] <= _PORT_MAX:
        raise invalid(f"ports must be between 1 and {_PORT_MAX}.")
    return bounds


def _marked(openings: Sequence[Opening] | None) -> str:
    if openings is None:
        return "all"
    return "; ".join(sorted(f"{o.protocol} {o.first_port}-{o.last_port} {','.join(o.peers)}" for o in openings))


def _opening(world: World, rule: Document, places: Document) -> Opening:
    numbers = {str(number) for number in places.get("droplet_ids", [])}
    named = set(places.get("tags", []))
    these = [d for d in world.every("droplet") if d["id"] in numbers or named & set(d["tags"])]
    addresses = [network["ip_address"] for d in these for network in d["networks"] or []]
    ranges = [*places.get("addresses", []), *addresses]
    # The machines have no IPv6, so a peer of that family opens nothing.
    fourth = sorted({str(found) for text in ranges if (found := _range(text)).version == 4})
    return Opening(rule["protocol"], *_ports(rule["ports"]), tuple(fourth))


def _range(text: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(str(text), strict=False)
    except ValueError:
        raise invalid(f"{text} is neither an address nor a range.") from None


def _covers(firewall: Document, droplet: Document) -> bool:
    return int(droplet["id"]) in firewall["droplet_ids"] or bool(set(firewall["tags"]) & set(droplet["tags"]))


def _droplet_ids(world: World, given: object) -> list[int]:
    numbers = _list(given, "droplet_ids")
    known = {int(droplet["id"]) for droplet in world.every("droplet")}
    strange = [number for number in numbers if number not in known]
    if strange:
        raise invalid(f"droplet {strange[0]} does not exist")
    return numbers


def _tags(world: World, given: object) -> list[str]:
    names = _list(given, "tags")
    for name in names:
        if world.documents.get(f"tag/{name}", "tag") is None:
            raise conflict(f"tag {name} does not exist")
    return names


def _list(given: object, name: str) -> list[Any]:  # of JSON, which the caller looks at
    if given is None:
        return []
    if not isinstance(given, list):
        raise invalid(f"{name} must be an array.")
    return given
