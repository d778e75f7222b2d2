"""Zones: the domains of the account, each with the name servers that Cloudflare gave it."""

import hashlib
from datetime import UTC, datetime

from wopr.emulators.documents import Document, Documents, Query

NAME_SERVERS = ("ada.ns.cloudflare.com", "bob.ns.cloudflare.com")
ACCOUNT = {"id": hashlib.md5(b"wopr", usedforsecurity=False).hexdigest(), "name": "WOPR"}


def add(store: Documents, name: str) -> Document:
    """The zone of a domain, made when there is none."""
    name = name.lower().rstrip(".")
    if found := named(store, name):
        return found
    now = datetime.now(UTC).isoformat()
    zone: Document = {
        "object": "zone",
        "id": hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(),
        "name": name,
        "status": "active",
        "paused": False,
        "type": "full",
        "development_mode": 0,
        "name_servers": list(NAME_SERVERS),
        "original_name_servers": None,
        "created_on": now,
        "modified_on": now,
        "activated_on": now,
        "account": ACCOUNT,
        "permissions": ["#dns_records:edit", "#dns_records:read", "#zone:read"],
        "_serial": 1,
    }
    return store.put(zone)


def named(store: Documents, name: str) -> Document | None:
    """The zone with exactly this name."""
    found = store.select(Query("zone", {"name": name}, limit=1))
    return found[0] if found else None


def above(store: Documents, name: str) -> Document | None:
    """The zone that a name lies in: the longest one."""
    parts = name.split(".")
    return next((zone for i in range(len(parts)) if (zone := named(store, ".".join(parts[i:])))), None)


def every(store: Documents) -> list[Document]:
    """All zones by name."""
    return sorted(store.select(Query("zone", limit=10_000)), key=lambda zone: str(zone["name"]))


def changed(store: Documents, zone: Document) -> None:
    """Its records changed: the serial of its SOA grows."""
    store.put(zone | {"_serial": zone["_serial"] + 1, "modified_on": datetime.now(UTC).isoformat()})
