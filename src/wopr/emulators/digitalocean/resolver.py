"""What machines ask for names: the Cloudflare stand-in for those of its zones, the host's servers for all others."""

from collections.abc import Sequence
from dataclasses import dataclass

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset

from wopr.emulators.nameserver import NameServer

ANSWER_SECONDS_MAX = 3.0
CNAMES_MAX = 8
DNS_PORT = 53


@dataclass(frozen=True)
class Place:
    """Where a name server listens."""

    address: str
    port: int = DNS_PORT


class Resolver:
    """Listens from `start` to `close`, on another port when somebody else has the one that is wanted.

    `zones` is the server of the zones; None, or one that does not answer, leaves every name to `others`, which are the
    host's own servers when there are none.
    """

    def __init__(self, zones: Place | None, others: Sequence[Place] = ()) -> None:
        self._zones, self._others = zones, others
        self._server: NameServer | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        assert self._server is not None, "start() comes first"
        return f"{self._server.host}:{self._server.port}"

    async def start(self, host: str, port: int) -> int:
        """The port on which it listens."""
        try:
            self._server = NameServer(host, port)
        except OSError:
            self._server = NameServer(host, 0)
        await self._server.start(self.answer)
        return self._server.port

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()

    async def answer(self, query: dns.message.Message) -> dns.message.Message:
        """The response, through aliases that lead out of the zones. SERVFAIL: no server answers."""
        response = dns.message.make_response(query, recursion_available=True)
        if len(query.question) != 1:
            response.set_rcode(dns.rcode.NOTIMP)
            return response
        asked = query.question[0]
        name = asked.name
        for _ in range(CNAMES_MAX):
            found = await self._ask(dns.message.make_query(name, asked.rdtype, asked.rdclass, use_edns=0))
            if found is None:
                response.set_rcode(dns.rcode.SERVFAIL)
                return response
            response.answer += found.answer
            response.authority = found.authority
            response.set_rcode(found.rcode())
            further = _left_open(found)
            if further is None:
                break
            name = further
        return response

    async def _ask(self, query: dns.message.Message) -> dns.message.Message | None:
        """What the server that knows the name answers; None when none does."""
        if self._zones is not None:
            # Over TCP: one that does not run refuses at once.
            found = await _over_tcp(query, self._zones)
            if found is not None and found.rcode() != dns.rcode.REFUSED:
                return found
        for place in self._others or _servers_of_the_host():
            found = await _over_udp(query, place)
            if found is not None and found.rcode() not in (dns.rcode.SERVFAIL, dns.rcode.REFUSED):
                return found
        return None


def _left_open(found: dns.message.Message) -> dns.name.Name | None:
    """The name to which an alias leads that the response does not follow to its end."""
    try:
        chain = found.resolve_chaining() if isinstance(found, dns.message.QueryMessage) else None
    except dns.exception.DNSException:
        return None
    if chain is None or chain.answer is not None or not chain.cnames or found.rcode() == dns.rcode.NXDOMAIN:
        return None
    followed = any(record.rdtype == dns.rdatatype.SOA for record in found.authority)
    return None if followed else chain.canonical_name


async def _over_tcp(query: dns.message.Message, place: Place) -> dns.message.Message | None:
    try:
        return await dns.asyncquery.tcp(query, place.address, ANSWER_SECONDS_MAX, place.port)
    except (dns.exception.DNSException, OSError, EOFError):
        return None


async def _over_udp(query: dns.message.Message, place: Place) -> dns.message.Message | None:
    try:
        found, _ = await dns.asyncquery.udp_with_fallback(query, place.address, ANSWER_SECONDS_MAX, place.port)
    except (dns.exception.DNSException, OSError, EOFError):
        return None
    return found


def _servers_of_the_host() -> Sequence[Place]:
    """Read at each question: a laptop changes its network."""
    try:
        found = dns.resolver.Resolver().nameservers
    except dns.resolver.NoResolverConfiguration:
        return ()
    return [Place(str(server)) for server in found]
