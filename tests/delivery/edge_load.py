"""Customers of a site over https: some keep their connection, some come anew each time, some listen to a stream."""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from cryptography import x509

IDLE_SECONDS = 0.05
STREAM_EVENTS = 60


@dataclass
class Seen:
    """What happened. `failures` are requests that got no whole answer; `cut` connections that ended while kept."""

    answers: int = 0
    handshakes: int = 0
    cut: int = 0
    streams: int = 0
    failures: list[str] = field(default_factory=list)
    serials: Counter[str] = field(default_factory=Counter)


@dataclass
class Load:
    """Sends until `stop` is set."""

    name: str
    port: int
    context: ssl.SSLContext
    seen: Seen = field(default_factory=Seen)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, *, kept: int, fresh: int, streams: int) -> Seen:
        jobs = [self._keep() for _ in range(kept)] + [self._come_anew() for _ in range(fresh)]
        jobs += [self._listen() for _ in range(streams)]
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)
        return self.seen

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait for what the load brings about, for as long as it runs."""
        while not reached():  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    async def _keep(self) -> None:
        """One connection for many requests, with pauses in which it is idle."""
        while not self.stop.is_set():
            reader, writer = await self._open()
            with suppress(OSError):
                while not self.stop.is_set():
                    if not await self._ask(reader, writer, "keep-alive"):
                        self.seen.cut += 1
                        break
                    await asyncio.sleep(IDLE_SECONDS)
            writer.close()

    async def _come_anew(self) -> None:
        while not self.stop.is_set():
            reader, writer = await self._open()
            await self._ask(reader, writer, "close")
            writer.close()

    async def _listen(self) -> None:
        """Streams until the end, each of them whole; one that began before `stop` is heard out."""
        while not self.stop.is_set():
            reader, writer = await self._open()
            writer.write(f"GET /stream HTTP/1.1\r\nHost: {self.name}\r\nConnection: close\r\n\r\n".encode())
            text = (await reader.read(-1)).decode()
            whole = text.count("data: ") == STREAM_EVENTS
            self.seen.streams += whole
            if not whole:
                self.seen.failures.append(f"stream of {text.count('data: ')} events")
            writer.close()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname=self.name
        )
        raw = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.seen.handshakes += 1
        self.seen.serials[f"{x509.load_der_x509_certificate(raw).serial_number:x}"] += 1
        return reader, writer

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: str) -> bool:
        """One request; whether the answer was whole."""
        try:
            writer.write(f"GET / HTTP/1.1\r\nHost: {self.name}\r\nConnection: {connection}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(line for line in head.split("\r\n") if line.lower().startswith("content-length"))
            await reader.readexactly(int(length.partition(":")[2]))
        except (OSError, asyncio.IncompleteReadError) as error:
            self.seen.failures.append(f"{connection}: {type(error).__name__}")
            return False
        if " 200 " not in head.partition("\r\n")[0]:
            self.seen.failures.append(head.partition("\r\n")[0])
            return False
        self.seen.answers += 1
        return True
