"""What the reconciler asks of a runtime: see what lives, start, stop, remove, read logs. Nothing else is known above.

Every implementation passes `tests/contract/test_runtimes.py`. Each call is safe to repeat: starting what runs in the
same generation, stopping what is stopped and removing what is gone change nothing.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from wopr.core.errors import WoprError
from wopr.core.ids import BotId


@dataclass(frozen=True)
class Limits:
    """What one bot may take of its machine.

    `memory_bytes`, `cpus`, `processes` (threads count) and `data_bytes` are enforced on containers; a bare process is
    held by `address_bytes`, the addresses that it may reserve. `file_bytes` is the size of a single file.
    """

    memory_bytes: int
    address_bytes: int
    open_files: int
    file_bytes: int
    data_bytes: int
    cpus: float
    processes: int


@dataclass(frozen=True)
class BotSpec:
    """A bot to be started. The runtime adds to `environment` what only it knows: address, port, data folder, token."""

    bot_id: BotId
    generation: int
    size: str
    limits: Limits
    environment: Mapping[str, str] = field(repr=False)
    image: str = ""  # where bots run in containers; empty: the runtime's own


@dataclass(frozen=True)
class Instance:
    """A bot that lives. `id` is new for each start; `token` is what its callers must show.

    `image` is the one it was started with, as the one who wanted it named it; empty where bots have none.
    """

    id: UUID
    bot_id: BotId
    generation: int
    url: str
    started_at: datetime
    token: str = field(repr=False)
    image: str = ""


@dataclass(frozen=True)
class Ended:
    """An instance that ended by itself or was ended from outside; `reason` is a sentence.

    `machine`: its machine went away, which says nothing of the bot and its image.
    """

    bot_id: BotId
    instance_id: UUID
    at: datetime
    reason: str
    machine: bool = False


@dataclass(frozen=True)
class LogLine:
    """One line that a bot wrote; `stream` is stdout or stderr, `at` is when (its own time, else the file's)."""

    at: datetime
    stream: str
    text: str


class RuntimeFailed(WoprError):
    """The machine refused to run the bot; the reconciler tries again later.

    The message is for operators: it may name registries, users, containers and paths. Customers read `for_customers`.
    """

    status = 503
    default_code = "runtime_failed"
    for_customers = "The bot could not be started. It is tried again by itself, and the operator was told."

    def body(self) -> dict[str, Mapping[str, str]]:
        """The answer to a request, as JSON: nobody but customers asks for a bot directly."""
        return {"error": {"code": self.code, "message": self.for_customers, "remedy": "Try again in a few minutes."}}


class Copies(Protocol):
    """Copies of what bots keep, made while they are stopped. A call that was cut off is made again, as it was."""

    async def make(self, bot_id: BotId, generation: int, image: str) -> None:
        """Copy everything, with the programs of this image; other copies of the bot go. Raises `RuntimeFailed`."""
        ...

    async def restore(self, bot_id: BotId, generation: int, image: str) -> None:
        """Make everything again as it is in that copy. Raises `RuntimeFailed`."""
        ...

    async def drop(self, bot_id: BotId, generation: int) -> None:
        """Delete that copy; one that is gone is fine."""
        ...


class Runtime(Protocol):
    """A place where bots run."""

    @property
    def copies(self) -> Copies | None:
        """How bots' data is copied before they change their image; None where images are not changed one by one."""
        ...

    def watch(self, on_end: Callable[[Ended], None]) -> None:
        """Call `on_end` in the event loop for every instance that ends, those of earlier processes included."""
        ...

    async def observe(self) -> Mapping[BotId, Instance]:
        """Every living instance; those that an earlier process started are adopted."""
        ...

    async def locate(self, bot_id: BotId) -> Instance | None:
        """The living instance of one bot, from any process."""
        ...

    def held(self, bot_id: BotId) -> str:
        """Why the bot can't run now although nothing of it failed (its machine is away), as a sentence; empty: it can.

        As seen by the last `observe` or `locate` of the bot.
        """
        ...

    async def prepare(self, bot_id: BotId, image: str) -> None:
        """Have the image where the bot runs, so that it can start with it once it stops. Raises `RuntimeFailed`."""
        ...

    async def start(self, spec: BotSpec) -> Instance:
        """Start one instance; what runs in this generation is returned as it is. Raises `RuntimeFailed`."""
        ...

    async def stop(self, bot_id: BotId) -> None:
        """End the instance, politely first; its data stays."""
        ...

    async def remove(self, bot_id: BotId) -> None:
        """End the instance and delete everything that the bot kept."""
        ...

    async def tend(self) -> int:
        """Housekeeping between passes, such as rotating logs; the number of things done."""
        ...

    async def guard(self) -> int:
        """End bots that take too much of the machine's disk; how many. Asked every second, and cheap."""
        ...

    async def prune(self, needed: Sequence[str]) -> int:
        """Remove old images of bots, a few at a time, but for these; how many, or on how many machines."""
        ...

    async def logs(self, bot_id: BotId, tail: int) -> Sequence[LogLine]:
        """The last `tail` lines, oldest first."""
        ...

    def follow(self, bot_id: BotId, tail: int) -> AsyncIterator[LogLine]:
        """The last `tail` lines, then every new one until the caller stops asking."""
        ...

    async def close(self) -> None:
        """Let go of what this process holds. The bots go on."""
        ...
