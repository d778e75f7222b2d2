"""The account: its documents, its numbers, and the time. What all other modules of the stand-in work on."""

import ipaddress
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from wopr.emulators.digitalocean import catalog
from wopr.emulators.digitalocean.errors import invalid, not_found
from wopr.emulators.digitalocean.settings import DigitalOceanSettings
from wopr.emulators.documents import Document, Documents, Query

_NUMBER, _FIRST_NUMBER = "last_number", 480_000_000
_VPC_RANGES = "10.96.0.0/11"
_VPC_PREFIX, _VPC_PREFIX_MIN, _VPC_PREFIX_MAX = 20, 16, 28
_VPC_NAME = re.compile(r"[a-zA-Z0-9.-]{1,255}")


@dataclass
class World:
    """One account. `wake` tells the operator (who carries out what was accepted) that there is something to do."""

    documents: Documents
    settings: DigitalOceanSettings
    base_url: str = ""
    wake: Callable[[], None] = field(default=lambda: None)

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def number(self) -> int:
        """A number that nothing else in the account has."""
        number = int(self.documents.note(_NUMBER, str(_FIRST_NUMBER))) + 1
        self.documents.set_note(_NUMBER, str(number))
        return number

    def find(self, kind: str, document_id: str) -> Document:
        """The document, or DigitalOcean's 404."""
        document = self.documents.get(document_id, kind)
        if document is None or document.get("_destroyed"):
            raise not_found()
        return document

    def every(self, kind: str, **where: str | int | bool | None) -> list[Document]:
        """Documents of a kind with these fields, oldest first, without those that are being destroyed."""
        found = self.documents.select(Query(kind, where, limit=100_000, oldest_first=True))
        return [document for document in found if not document.get("_destroyed")]

    def default_vpc(self, region: str) -> Document:
        """The network in which a region's droplets are unless they are told otherwise; made at its first use."""
        known = self.every("vpc", region=region, default=True)
        return known[0] if known else self.make_vpc(region, f"default-{region}", default=True)

    def order_vpc(self, body: Document) -> Document:
        """A private network that somebody asked for."""
        name, ip_range, region = str(body.get("name") or ""), body.get("ip_range"), str(body.get("region"))
        if not _VPC_NAME.fullmatch(name):
            raise invalid("name may only contain alphanumeric characters, dashes, and periods.")
        if catalog.region(region) is None:
            raise invalid("region is invalid.")
        if self.every("vpc", name=name):
            raise invalid("name is already in use.")
        if ip_range is not None:
            self._check_range(str(ip_range))
        return self.make_vpc(region, name, ip_range=ip_range, description=str(body.get("description") or ""))

    def make_vpc(
        self, region: str, name: str, *, ip_range: str | None = None, description: str = "", default: bool = False
    ) -> Document:
        """A new private network."""
        vpc: Document = {"object": "vpc", "id": str(uuid.uuid4()), "name": name, "description": description}
        vpc |= {"region": region, "ip_range": ip_range or self._free_range(), "default": default}
        return self.documents.put(vpc | {"created": self.now()})

    def _check_range(self, text: str) -> None:
        try:
            wanted = ipaddress.ip_network(text)
        except ValueError:
            raise invalid("ip_range must be a range of addresses in CIDR notation.") from None
        if not wanted.is_private or not _VPC_PREFIX_MIN <= wanted.prefixlen <= _VPC_PREFIX_MAX:
            raise invalid("ip_range must be private, and between /16 and /28.")
        if any(wanted.overlaps(ipaddress.ip_network(vpc["ip_range"])) for vpc in self.every("vpc")):
            raise invalid("This range overlaps with another VPC in your account.")

    def _free_range(self) -> str:
        taken = [ipaddress.ip_network(vpc["ip_range"]) for vpc in self.every("vpc")]
        ranges = list(ipaddress.ip_network(_VPC_RANGES).subnets(new_prefix=_VPC_PREFIX))
        return str(next(r for r in ranges if not any(r.overlaps(other) for other in taken)))


def moment(epoch: float) -> str:
    """A time as the API writes it."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shown_vpc(vpc: Document) -> Document:
    """A private network as the API shows it."""
    shown = {name: vpc[name] for name in ("id", "name", "description", "region", "ip_range", "default")}
    return shown | {"urn": f"do:vpc:{vpc['id']}", "created_at": moment(vpc["created"])}


def region_of(slug: str) -> Document:
    """The region of something that exists."""
    found = catalog.region(slug)
    assert found is not None, f"a stored object names the region {slug}, which does not exist"
    return found
