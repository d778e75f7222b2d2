"""Processes that are killed in the middle of their work with an engine, after each of its requests."""

from collections.abc import Container
from typing import Any, TypeVar

from wopr.fleet.runtimes.engine import Engine
from wopr.fleet.runtimes.protocol import Runtime

ALL = ("GET", "POST", "PUT", "DELETE")
CHANGES = ("POST", "PUT", "DELETE")
R = TypeVar("R", bound=Runtime)


class Killed(BaseException):
    """The end of a process in the middle of its work: nothing in it can catch this and tidy up."""


class DyingEngine(Engine):
    """An engine whose caller is killed right after its n-th request of these kinds was carried out."""

    def __init__(self, address: str, calls: int, counted: Container[str]) -> None:
        super().__init__(address)
        self.left = calls
        self._counted = counted

    async def call(self, method: str, path: str, **parts: Any) -> Any:
        answer = await super().call(method, path, **parts)
        if method in self._counted:
            self.left -= 1
            if self.left == 0:
                raise Killed(f"{method} {path}")
        return answer


def dying(runtime: R, address: str, calls: int, counted: Container[str] = ALL) -> R:
    """The runtime, which dies after so many requests."""
    engine = DyingEngine(address, calls, counted)
    # Everything in a runtime asks the one engine that it was given.
    for part in (runtime, *vars(runtime).values()):
        if hasattr(part, "_engine"):
            part._engine = engine
    return runtime


async def die(runtime: Runtime, work: Any) -> bool:
    """Whether the work was cut short."""
    try:
        await work
    except Killed:
        return True
    finally:
        await runtime.close()
    return False
