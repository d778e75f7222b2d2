"""What machines ask for names: zones of the Cloudflare stand-in first, everything else as the host does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import dns.asyncquery
import dns.message
import dns.rcode
import dns.rrset

from wopr.emulators.digitalocean.resolver import Place, Resolver
from wopr.emulators.nameserver import NameServer

ZONES = {"api.wopr.bot. A": "60 IN A 198.18.0.10", "out.wopr.bot. A": "60 IN CNAME www.example.net."}
OTHERS = {"www.example.net. A": "60 IN A 203.0.113.7", "out.wopr.bot. A": "60 IN A 192.0.2.1"}


def knowing(records: Mapping[str, str], otherwise: dns.rcode.Rcode) -> Callable[[dns.message.Message], object]:
    """What a name server answers that has these records and no others."""

    async def answer(query: dns.message.Message) -> dns.message.Message:
        response, asked = dns.message.make_response(query), query.question[0]
        found = records.get(f"{asked.name} {dns.rdatatype.to_text(asked.rdtype)}")
        if found is None:
            response.set_rcode(otherwise)
        else:
            seconds, _, kind, value = found.split(" ")
            response.answer.append(dns.rrset.from_text(asked.name, int(seconds), "IN", kind, value))
        return response

    return answer


@asynccontextmanager
async def serving(answer: Callable[[dns.message.Message], object]) -> AsyncIterator[Place]:
    server = NameServer("127.0.0.1", 0)
    await server.start(answer)
    try:
        yield Place(server.host, server.port)
    finally:
        await server.close()


def asked(*names: str, zones_run: bool = True) -> list[tuple[str, list[str]]]:
    """What the resolver answers over UDP to questions for addresses, each with its code."""

    async def ask() -> list[tuple[str, list[str]]]:
        async with (
            serving(knowing(ZONES, dns.rcode.REFUSED)) as zones,
            serving(knowing(OTHERS, dns.rcode.NXDOMAIN)) as others,
        ):
            free = NameServer("127.0.0.1", 0)
            await free.start(knowing({}, dns.rcode.REFUSED))
            await free.close()
            resolver = Resolver(zones if zones_run else Place(free.host, free.port), [others])
            port = await resolver.start("127.0.0.1", 0)
            found = []
            for name in names:
                answer = await dns.asyncquery.udp(dns.message.make_query(name, "A"), "127.0.0.1", 20, port)
                values = [value.to_text() for rrset in answer.answer for value in rrset]
                found.append((dns.rcode.to_text(answer.rcode()), values))
            await resolver.close()
            return found

    return asyncio.run(ask())


def test_names_of_the_zones_come_from_their_server_and_others_from_the_hosts() -> None:
    assert asked("api.wopr.bot", "www.example.net", "nobody.example.net") == [
        ("NOERROR", ["198.18.0.10"]),
        ("NOERROR", ["203.0.113.7"]),
        ("NXDOMAIN", []),
    ]


def test_an_alias_out_of_the_zones_is_followed() -> None:
    assert asked("out.wopr.bot") == [("NOERROR", ["www.example.net.", "203.0.113.7"])]


def test_without_a_server_of_zones_every_name_is_the_hosts() -> None:
    assert asked("www.example.net", "out.wopr.bot", zones_run=False) == [
        ("NOERROR", ["203.0.113.7"]),
        ("NOERROR", ["192.0.2.1"]),
    ]


def test_nobody_who_answers_is_a_failure_that_may_pass() -> None:
    async def ask() -> dns.message.Message:
        async with serving(knowing({}, dns.rcode.REFUSED)) as silent:
            return await Resolver(None, [silent]).answer(dns.message.make_query("a.example.net", "A"))

    assert asyncio.run(ask()).rcode() == dns.rcode.SERVFAIL


def test_a_resolver_comes_back_at_its_port_and_moves_only_when_somebody_has_it() -> None:
    async def start_twice() -> tuple[int, int, int]:
        first, second, third = (Resolver(None) for _ in range(3))
        port = await first.start("127.0.0.1", 0)
        moved = await second.start("127.0.0.1", port)
        await first.close()
        again = await third.start("127.0.0.1", port)
        await second.close()
        await third.close()
        return port, moved, again

    port, moved, again = asyncio.run(start_twice())
    assert port != moved
    assert port == again
