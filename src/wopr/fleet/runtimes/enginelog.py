"""A container's log as lines: the engine frames what each stream wrote, in pieces that end anywhere."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

from wopr.fleet.runtimes.containers import parse_time
from wopr.fleet.runtimes.engine import Engine
from wopr.fleet.runtimes.protocol import LogLine

STREAMS = {1: "stdout", 2: "stderr"}
LINE_CHARACTERS_MAX = 4_000
ALL = -1
LINE_BYTES_MAX = 256 * 1024


async def tail(engine: Engine, name: str, count: int, kind: str = "containers") -> list[LogLine]:
    """The last `count` lines of a container (or of what else has a log, as `tasks`), oldest first."""
    if count <= 0:
        return []
    return [line async for line in lines_of(engine.log(name, {"tail": str(count)}, follow=False, kind=kind))]


async def follow(engine: Engine, container: str, count: int) -> AsyncIterator[LogLine]:
    """The last `count` lines (or `ALL`), then each new one, until the container ends."""
    wanted = "all" if count == ALL else str(count)
    async for line in lines_of(engine.log(container, {"tail": wanted}, follow=True)):
        yield line


class Splitter:
    """Puts the pieces of one stream together again; every line begins with the engine's time of it."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[LogLine]:
        """The lines that this piece completes."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            whole, self._rest = [*whole, self._rest], b""
        for raw in whole:
            if (line := self._parse(raw)) is not None:
                yield line

    def end(self) -> Iterator[LogLine]:
        """What was written last without an end of line."""
        if (line := self._parse(self._rest)) is not None:
            yield line
        self._rest = b""

    def _parse(self, raw: bytes) -> LogLine | None:
        text = raw.decode("utf-8", "replace").rstrip()
        stamp, _, rest = text.partition(" ")
        try:
            at = parse_time(stamp)
        except ValueError:
            at, rest = datetime.now(UTC), text
        return LogLine(at, self._stream, rest[:LINE_CHARACTERS_MAX]) if rest else None


async def lines_of(pieces: AsyncIterator[tuple[int, bytes]]) -> AsyncIterator[LogLine]:
    """The lines of framed pieces."""
    splitters = {number: Splitter(name) for number, name in STREAMS.items()}
    async for number, piece in pieces:
        if number in splitters:
            for line in splitters[number].feed(piece):
                yield line
    for splitter in splitters.values():
        for line in splitter.end():
            yield line
