"""What every stage of a release needs: where it works, under which lock, and whom it tells."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wopr.delivery.commands import Compose
from wopr.delivery.hosts import Host
from wopr.delivery.lock import Fence
from wopr.delivery.place import Place
from wopr.ops.journal import Journal, Operation

Tell = Callable[[str, str], None]
ASKED = "asked for the lock"


@dataclass(frozen=True)
class Context:
    """`fence` changes the host, `host` only looks at it. `settings` are the operator's, from `.env` as it is now."""

    fence: Fence
    compose: Compose
    operation: Operation
    tell: Tell
    settings: Mapping[str, str] = field(repr=False)

    @property
    def host(self) -> Host:
        return self.fence.host

    @property
    def place(self) -> Place:
        return self.fence.place

    @property
    def journal(self) -> Journal:
        return self.operation.journal

    def step(self, what: str, **data: Any) -> None:  # whatever json can write
        """A part is done: durable in the journal, and told to whoever watches."""
        self.operation.step(what, **data)
        said = {name: value for name, value in data.items() if value not in ("", None, [])}
        self.tell(what, " ".join(f"{name} {value}" for name, value in said.items()))
