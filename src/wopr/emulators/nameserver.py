"""A real name server: UDP and TCP on one port, whose questions a function answers."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable

import dns.exception
import dns.flags
import dns.message

Answer = Callable[[dns.message.Message], Awaitable[dns.message.Message]]

QUESTION_SECONDS_MAX = 10.0
PLAIN_UDP_BYTES = 512
UDP_BYTES_MAX = 1232
TRIES_MAX = 20


class NameServer:
    """Listens from the moment it is made; answers from `start` to `close`. Port 0 takes one that is free for both."""

    def __init__(self, host: str, port: int) -> None:
        self._tcp, self._udp = _bound(host, port)
        self.host = host
        self.port: int = self._tcp.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self, answer: Answer) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(answer), sock=self._udp)

        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _converse(answer, reader, writer)

        self._server = await asyncio.start_server(converse, sock=self._tcp)

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        self._tcp.close()
        self._udp.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._transport: asyncio.DatagramTransport | None = None
        self._answering: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.create_task(self._reply(data, addr))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _reply(self, data: bytes, addr: tuple[str, int]) -> None:
        wire = await _answered(self._answer, data, udp=True)
        if wire and self._transport is not None:
            self._transport.sendto(wire, addr)


async def _converse(answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Questions over one connection, each with its length in front (RFC 1035, 4.2.2)."""
    try:
        with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
            while True:
                async with asyncio.timeout(QUESTION_SECONDS_MAX):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    wire = await _answered(answer, await reader.readexactly(length), udp=False)
                    if not wire:
                        return
                    writer.write(struct.pack("!H", len(wire)) + wire)
                    await writer.drain()
    finally:
        writer.close()


async def _answered(answer: Answer, wire: bytes, *, udp: bool) -> bytes:
    """The answer as it goes out; nothing for what is no question."""
    try:
        query = dns.message.from_wire(wire)
    except dns.exception.DNSException:
        return b""
    if query.flags & dns.flags.QR:
        return b""
    response = await answer(query)
    if not udp:
        return response.to_wire()
    room = min(query.payload, UDP_BYTES_MAX) if query.edns >= 0 else PLAIN_UDP_BYTES
    return response.to_wire(max_size=max(room, PLAIN_UDP_BYTES), prefer_truncation=True)


def _bound(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Both sockets on one port; OSError when it is taken. A free one for TCP may be taken for UDP: then another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for left in range(TRIES_MAX, 0, -1):
        tcp = socket.create_server((host, port), family=family)
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            udp.bind((host, tcp.getsockname()[1]))
        except OSError:
            tcp.close()
            udp.close()
            if port or left == 1:
                raise
            continue
        udp.setblocking(False)
        return tcp, udp
    raise AssertionError("the last try returns or raises")
