"""Whom the firewall of rented nodes admits: the platform's host alone, by the private addresses that it has itself.

Containers reach nodes through their host, which puts its own address on what they send: that is the one that nodes see.
One address too many admits next to nobody; one too few, and no node is ever reached. So what is in doubt is the host's.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, ip_network

# RFC 1918. Python's `is_private` has more, of which no cloud gives a machine an address.
PRIVATE = tuple(IPv4Network(network) for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
# A line of `ip -o -4 addr`: "3: eth1    inet 10.118.0.2/20 brd …". The name may have an `@if12` behind it.
LINE = re.compile(r"^\d+:\s+(?P<link>[^\s@]+)\S*\s+inet\s+(?P<address>\d+\.\d+\.\d+\.\d+)", re.MULTILINE)
# Networks of containers and of machines in this one: Docker's, those of bots (`wopr-…`), libvirt's, LXC's, Kubernetes'.
INNER = re.compile(r"lo$|docker|br-[0-9a-f]{12}$|wopr-|veth|virbr|lxc|lxd|podman|cni|cali|flannel|kube-")


def private_addresses(text: str) -> tuple[str, ...]:
    """The host's own among what `commands.addresses` wrote, in its order.

    Not those of an interface that has a public address too: beside it DigitalOcean puts an "anchor", which neighbours
    never see.
    """
    links: dict[str, list[IPv4Address]] = {}
    for line in LINE.finditer(text):
        links.setdefault(line["link"], []).append(IPv4Address(line["address"]))
    own = [one for link, has in links.items() if not INNER.match(link) and all(map(_private, has)) for one in has]
    return tuple(dict.fromkeys(map(str, own)))


def admitting(addresses: Sequence[str]) -> str:
    """The value of GPU_ADMIT that admits these alone."""
    return ",".join(f"{address}/32" for address in addresses)


def lets_in(admitted: str, addresses: Sequence[str]) -> bool:
    """Whether a value of GPU_ADMIT admits any of these. What is no network admits nobody."""
    return any(IPv4Address(address) in network for network in _networks(admitted) for address in addresses)


def _private(address: IPv4Address) -> bool:
    return any(address in network for network in PRIVATE)


def _networks(admitted: str) -> Sequence[IPv4Network]:
    found = []
    for part in filter(None, map(str.strip, admitted.split(","))):
        try:
            network = ip_network(part, strict=False)
        except ValueError:
            continue
        if isinstance(network, IPv4Network):
            found.append(network)
    return found
