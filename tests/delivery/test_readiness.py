"""Waiting for a release that starts: a look that hangs is not its fault, and a crash is known at once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from wopr.delivery.commands import trials
from wopr.delivery.errors import HostFailed
from wopr.delivery.hosts import LocalHost, Output
from wopr.delivery.observe import tried, wait_ready
from wopr.delivery.place import Place

PLACE = Place("/srv/wopr", "acme")
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class Starting(LocalHost):
    """An engine with both containers of a slot, in which the first probes hang: one for each entry of `hanging`."""

    hanging: list[str] = field(default_factory=list)
    status: str = "running"

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = 60.0) -> Output:
        if argv[:2] == ("docker", "exec"):
            if self.hanging:
                self.hanging.pop()
                raise HostFailed(f"`docker exec` did not end within {timeout:.0f} s.")
            return Output(0)
        if argv[:2] == ("docker", "logs"):
            return Output(0, b"it broke\n")
        return Output(0, json.dumps([self._box("api"), self._box("ui")]).encode())

    def _box(self, role: str) -> dict[str, object]:
        labels = {"com.docker.compose.service": f"{role}-blue", "wopr.slot": "blue", "wopr.release": "7"}
        state = {"Status": self.status, "ExitCode": 3}
        return {"Name": f"/acme-{role}-blue", "Config": {"Labels": labels}, "State": state}


async def test_a_look_that_hangs_is_looked_again() -> None:
    assert await wait_ready(Starting(hanging=["api", "api"]), PLACE, "blue", PATIENCE_SECONDS) == ""


async def test_a_look_that_always_hangs_is_the_reason_in_the_end() -> None:
    reason = await wait_ready(Starting(hanging=["api"] * 1000), PLACE, "blue", 0.0)
    assert reason == "not ready within 0 s: api-blue: `docker exec` did not end within 15 s."


async def test_a_trial_that_hangs_is_no_right_answer() -> None:
    reason = await tried(Starting(hanging=["api"]), trials(PLACE))
    assert reason == "no right answer from the API: `docker exec` did not end within 15 s."
    assert await tried(Starting(), trials(PLACE)) == ""


async def test_a_crash_is_not_waited_for() -> None:
    reason = await wait_ready(Starting(status="exited"), PLACE, "blue", PATIENCE_SECONDS)
    assert reason == "api-blue crashed (exit code 3): it broke"
