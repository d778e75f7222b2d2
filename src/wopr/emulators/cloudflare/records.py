"""DNS records: what Cloudflare accepts, what it refuses and with which code, and how records are kept.

Source: the API reference of DNS records and Cloudflare's table of record errors. Of the types, those that the platform
and certificates need: A, AAAA, CAA, CNAME, MX, NS, TXT.
"""

import ipaddress
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from wopr.emulators.cloudflare import zones
from wopr.emulators.cloudflare.errors import (
    CloudflareError,
    Fault,
    host_taken,
    identical,
    invalid_record,
    no_record,
)
from wopr.emulators.documents import Document, Documents, Query

AUTOMATIC_TTL = 1
TTL_SECONDS = range(60, 86_401)
COMMENT_CHARACTERS_MAX = 100
PROXIABLE = ("A", "AAAA", "CNAME")
CAA_TAGS = ("issue", "issuewild", "iodef")
CHANGEABLE = ("name", "type", "content", "ttl", "proxied", "comment", "tags", "priority", "data")
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)*{_LABEL}")
_CAA = re.compile(r'(\d{1,3}) (\w+) "?([^"]*)"?')

Body = Mapping[str, Any]  # JSON as the caller sent it


def create(store: Documents, zone: Document, body: Body) -> Document:
    """A new record; CloudflareError says what is wrong with it."""
    now = datetime.now(UTC).isoformat()
    blank: Document = {"object": "record", "id": secrets.token_hex(16), "_zone": zone["id"], "created_on": now}
    return _keep(store, zone, blank, body)


def replace(store: Documents, zone: Document, record_id: str, body: Body) -> Document:
    """The record with exactly these fields (PUT)."""
    old = find(store, zone, record_id)
    return _keep(store, zone, {key: old[key] for key in ("object", "id", "_zone", "created_on")}, body)


def update(store: Documents, zone: Document, record_id: str, body: Body) -> Document:
    """The record with these fields changed (PATCH)."""
    old = find(store, zone, record_id)
    return _keep(store, zone, old, {key: old[key] for key in CHANGEABLE if key in old} | dict(body))


def delete(store: Documents, zone: Document, record_id: str) -> None:
    """Remove a record."""
    store.remove(find(store, zone, record_id)["id"])
    zones.changed(store, zone)


def find(store: Documents, zone: Document, record_id: str) -> Document:
    """The record of this zone, or Cloudflare's 404."""
    record = store.get(record_id, "record")
    if record is None or record["_zone"] != zone["id"]:
        raise no_record()
    return record


def of_zone(store: Documents, zone_id: str) -> list[Document]:
    """Every record of a zone, newest first."""
    return store.select(Query("record", {"_zone": zone_id}, limit=1_000_000))


def chosen(store: Documents, zone: Document, wanted: Mapping[str, str]) -> list[Document]:
    """The records that match all, or with `match=any` any, of the filters of a list request."""
    tests = list(_tests(wanted))
    every = any if wanted.get("match") == "any" and tests else all
    found = [record for record in of_zone(store, zone["id"]) if every(test(record) for test in tests)]
    order = wanted.get("order", "")
    if order in ("type", "name", "content", "ttl", "proxied"):
        found.sort(key=lambda record: str(record[order]), reverse=wanted.get("direction") == "desc")
    return found


def shown(document: Document) -> Document:
    """A record or zone as the API writes it."""
    return {key: value for key, value in document.items() if key != "object" and not key.startswith("_")}


def _tests(wanted: Mapping[str, str]) -> Iterator[Callable[[Document], bool]]:
    for key, value in wanted.items():
        field, _, how = key.partition(".")
        if field not in ("name", "type", "content", "proxied", "comment") or how not in _COMPARISONS:
            continue
        yield lambda record, field=field, how=how, value=value: _COMPARISONS[how](  # type: ignore[misc]
            str(record.get(field) or "").lower(), value.lower()
        )


_COMPARISONS: Mapping[str, Callable[[str, str], bool]] = {
    "": lambda has, wants: has == wants,
    "exact": lambda has, wants: has == wants,
    "contains": lambda has, wants: wants in has,
    "startswith": lambda has, wants: has.startswith(wants),
    "endswith": lambda has, wants: has.endswith(wants),
}


def _keep(store: Documents, zone: Document, old: Document, body: Body) -> Document:
    fields = _checked(zone["name"], body)
    _refuse_clash(store, old, fields)
    record = old | fields | {"modified_on": datetime.now(UTC).isoformat()}
    zones.changed(store, zone)
    return store.put(record)


def _checked(zone: str, body: Body) -> Document:
    """The fields of a record, as Cloudflare keeps them."""
    record_type, name = str(body.get("type") or ""), _absolute(body.get("name"), zone)
    if record_type not in _CONTENT:
        raise invalid_record([(9001, "Invalid DNS record type.")] if record_type else [(9000, "DNS type is required.")])
    if name is None:
        raise invalid_record([(9000, "DNS name is invalid.")])
    content, faults = _CONTENT[record_type](body, name)
    faults += _faults(body, record_type)
    if faults:
        raise invalid_record(faults)
    proxied = body.get("proxied", False)
    fields: Document = {"name": name, "type": record_type, "content": content, "proxied": proxied}
    fields |= {"proxiable": record_type in PROXIABLE, "ttl": AUTOMATIC_TTL if proxied else body.get("ttl", 1)}
    fields |= {"settings": body.get("settings") or {}, "meta": {}, "comment": body.get("comment") or None}
    fields |= {"tags": body.get("tags") or []}
    return fields | {key: body[key] for key in ("priority", "data") if key in body}


def _faults(body: Body, record_type: str) -> list[Fault]:
    """What is wrong besides name and content."""
    found: list[Fault] = []
    ttl, proxied, comment = body.get("ttl", AUTOMATIC_TTL), body.get("proxied", False), body.get("comment")
    if isinstance(ttl, bool) or not isinstance(ttl, int) or (ttl != AUTOMATIC_TTL and ttl not in TTL_SECONDS):
        found.append((9021, "Invalid TTL. Must be between 60 and 86400 seconds, or 1 for Automatic."))
    if not isinstance(proxied, bool):
        found.append((9003, "Invalid 'proxied' value, must be a boolean"))
    elif proxied and record_type not in PROXIABLE:
        found.append((9004, "This record type cannot be proxied."))
    if comment is not None and (not isinstance(comment, str) or len(comment) > COMMENT_CHARACTERS_MAX):
        found.append((9313, f"DNS record has comment with more than {COMMENT_CHARACTERS_MAX} characters."))
    if record_type == "MX" and not isinstance(body.get("priority"), int):
        found.append((9100, "MX records must have a valid priority."))
    tags = body.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        found.append((9300, "DNS record has invalid tags."))
    return found


def _absolute(name: object, zone: str) -> str | None:
    """A name with its zone, as Cloudflare completes it; `@` is the zone itself. None when it can't be one."""
    if not isinstance(name, str) or not name:
        return None
    given = name.lower().rstrip(".")
    whole = zone if given == "@" else given if given == zone or given.endswith(f".{zone}") else f"{given}.{zone}"
    return whole if _NAME.fullmatch(whole) and len(whole) <= 253 else None


def _refuse_clash(store: Documents, old: Document, fields: Document) -> None:
    """The same record twice, or a CNAME beside an address."""
    same_name = store.select(Query("record", {"_zone": old["_zone"], "name": fields["name"]}))
    others = [record for record in same_name if record["id"] != old["id"]]
    if any(r["type"] == fields["type"] and r["content"] == fields["content"] for r in others):
        raise identical()
    if fields["type"] == "CNAME" and any(record["type"] in PROXIABLE for record in others):
        raise host_taken("CNAME")
    if any(record["type"] == "CNAME" for record in others) and fields["type"] in PROXIABLE:
        raise host_taken(fields["type"])


Content = tuple[str, list[Fault]]


def _ipv4(body: Body, name: str) -> Content:
    try:
        return str(ipaddress.IPv4Address(body.get("content"))), []
    except ValueError:
        return "", [(9005, "Content for A record must be a valid IPv4 address.")]


def _ipv6(body: Body, name: str) -> Content:
    try:
        return str(ipaddress.IPv6Address(body.get("content"))), []
    except ValueError:
        return "", [(9006, "Content for AAAA record must be a valid IPv6 address.")]


def _target(body: Body, name: str) -> Content:
    content = str(body.get("content") or "").lower().rstrip(".")
    if not _NAME.fullmatch(content) or content.startswith("*"):
        return "", [(9007, f"Content for {body['type']} record is invalid.")]
    if body["type"] == "CNAME" and content == name:
        return "", [(9039, "CNAME content cannot reference itself.")]
    return content, []


def _text(body: Body, name: str) -> Content:
    content = body.get("content")
    if not isinstance(content, str) or not content:
        return "", [(9207, "Content for TXT record must not be empty.")]
    return content, []


def _authority(body: Body, name: str) -> Content:
    """A CAA record comes in parts (`data`) or written out; `issue` and the like may be named once or several times."""
    data = body.get("data")
    if isinstance(data, Mapping):
        parts = (data.get("flags"), data.get("tag"), data.get("value"))
    else:
        found = _CAA.fullmatch(str(body.get("content") or ""))
        parts = (int(found[1]), found[2], found[3]) if found else (None, None, None)
    flags, tag, value = parts
    if not isinstance(flags, int) or not 0 <= flags <= 255 or tag not in CAA_TAGS or not isinstance(value, str):
        return "", [(9101, "CAA record has invalid flags, tag or value.")]
    return f'{flags} {tag} "{value}"', []


_CONTENT: Mapping[str, Callable[[Body, str], Content]] = {
    "A": _ipv4,
    "AAAA": _ipv6,
    "CAA": _authority,
    "CNAME": _target,
    "MX": _target,
    "NS": _target,
    "TXT": _text,
}


def must_be_object(body: object) -> Body:
    """The body of a request, or Cloudflare's refusal of anything else."""
    if not isinstance(body, dict):
        raise CloudflareError(400, 9207, "Request body is invalid.")
    return body
