"""What name servers really answer: those of a zone, each by itself, and the resolver that everybody here uses."""

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from wopr.core.errors import Invalid

DNS_PORT = 53
ANSWER_SECONDS_MAX = 5.0


@dataclass(frozen=True)
class Server:
    """A name server by address. `name` is how people know it."""

    address: str
    port: int = DNS_PORT
    name: str = ""

    def __str__(self) -> str:
        return self.name or (self.address if self.port == DNS_PORT else f"{self.address}:{self.port}")


@dataclass(frozen=True)
class Answered:
    """What one server said: the values, or why there are none."""

    server: str
    values: tuple[str, ...]
    error: str = ""


def servers(text: str) -> Sequence[Server]:
    """Servers from a list like `10.0.0.2:5353, 9.9.9.9`; Invalid when it is none."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        address, _, port = part.partition(":") if part.count(":") == 1 else (part.strip("[]"), "", "")
        try:
            found.append(Server(str(ipaddress.ip_address(address)), int(port or DNS_PORT)))
        except ValueError as error:
            raise Invalid(
                f"DNS_SERVERS={text} is no list of addresses.", remedy="Write it as 9.9.9.9,10.0.0.2:5353."
            ) from error
    return found


async def servers_named(names: Sequence[str]) -> Sequence[Server]:
    """The addresses of a zone's name servers; those that have none now are left out."""
    loop = asyncio.get_running_loop()

    async def look(name: str) -> Server | None:
        try:
            found = await loop.getaddrinfo(name, DNS_PORT, proto=17)
        except OSError:
            return None
        return Server(str(found[0][4][0]), DNS_PORT, name)

    return [server for server in await asyncio.gather(*map(look, names)) if server]


async def ask(name: str, type: str, server: Server | None = None) -> Answered:
    """Ask one server, or this machine's resolver when none is given, for the values of a name."""
    # Loaded here: a quarter of a second that commands without names need not spend.
    import dns.asyncresolver
    import dns.exception
    import dns.resolver

    try:
        resolver = dns.asyncresolver.Resolver(configure=server is None)
    except dns.resolver.NoResolverConfiguration as error:
        return Answered("resolver", (), str(error))
    if server is not None:
        resolver.nameservers, resolver.port = [server.address], server.port
    where = str(server) if server else "resolver"
    try:
        answer = await resolver.resolve(
            name + ".", type, raise_on_no_answer=False, lifetime=ANSWER_SECONDS_MAX, search=False
        )
    except dns.resolver.NXDOMAIN:
        return Answered(where, (), "no such name")
    except (dns.resolver.NoNameservers, dns.exception.Timeout, OSError) as error:
        return Answered(where, (), _word(error))
    values = tuple(sorted(value.to_text().strip('"') for value in answer.rrset or ()))
    return Answered(where, values, "" if values else f"no {type} record")


def _word(error: Exception) -> str:
    text = str(error)
    return "no answer" if "timed out" in text else text.rpartition(": ")[2] or type(error).__name__
