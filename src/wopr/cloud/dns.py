"""DNS records as the platform needs them: read, made, changed and removed in the zone that a domain lies in.

`Dns` is an edge of the world. Its real implementation speaks to Cloudflare; on a laptop the same code speaks to a
stand-in with a name server behind it. Every call may fail with `CloudError`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Zone:
    """A domain whose records are kept together, and the name servers that answer for it."""

    id: str
    name: str
    name_servers: tuple[str, ...]


@dataclass(frozen=True)
class DnsRecord:
    """One record. `name` is whole and without a dot at its end; `ttl_seconds` None leaves it to the company.

    `proxied` means that the company answers with its own addresses and stands before the real one. `comment` is how we
    know our own records. `id` is empty until the record exists.
    """

    name: str
    type: str
    content: str
    ttl_seconds: int | None = None
    proxied: bool = False
    comment: str = ""
    id: str = ""

    def __str__(self) -> str:
        return f"{self.type} {self.name} → {self.content}{' (proxied)' if self.proxied else ''}"


class Dns(Protocol):
    """A company's zones and records."""

    async def zone_of(self, name: str) -> Zone:
        """The zone that a name lies in. CloudError when the account has none."""

    async def records(self, zone: Zone, *, name: str = "", type: str = "") -> Sequence[DnsRecord]:
        """The zone's records over all pages, of one name and one type where these are given."""

    async def create(self, zone: Zone, record: DnsRecord) -> DnsRecord:
        """Make a record; it has an id then. One that is there exactly so already is found, not made twice."""

    async def change(self, zone: Zone, record: DnsRecord) -> DnsRecord:
        """Make the record with this id as told. Safe to repeat."""

    async def delete(self, zone: Zone, record: DnsRecord) -> bool:
        """Remove the record with this id; False when it was gone already."""
