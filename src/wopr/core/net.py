"""Addresses of callers: forwarded headers are believed from trusted proxies only."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network


def client_address(peer: str, forwarded_for: str | None, trusted: str) -> str:
    """The caller's address: the rightmost hop in X-Forwarded-For that is not one of ours.

    `trusted` lists networks by comma. An unreadable hop ends the walk, so that nobody can smuggle one past it.
    """
    networks = [ip_network(part.strip(), strict=False) for part in trusted.split(",") if part.strip()]

    def is_ours(address: IPv4Address | IPv6Address) -> bool:
        return any(address.version == network.version and address in network for network in networks)

    try:
        current = ip_address(peer)
    except ValueError:
        return peer
    for hop in reversed((forwarded_for or "").split(",")):
        if not is_ours(current):
            break
        try:
            current = ip_address(hop.strip())
        except ValueError:
            break
    return str(current)


def limit_key(address: str) -> str:
    """What a rate limit counts as one caller: an IPv4 address, or a /64 of IPv6 (what one household is given)."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Network((parsed, 64), strict=False))
    return str(parsed)
