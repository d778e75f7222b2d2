"""Has something done on one machine of a Swarm alone, by a service with one task there: the manager itself can't.

An errand has one name, which the manager gives only once. What is unfinished goes on when the process that wanted it
dies, and the next one waits for it; what has ended is done again, which harms nothing.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any  # the engine's JSON

import structlog

from wopr.fleet.runtimes import agents, enginelog, node_agent
from wopr.fleet.runtimes.agents import Charge
from wopr.fleet.runtimes.containers import LABEL_INSTALLATION, parse_time
from wopr.fleet.runtimes.engine import CONFLICT, NOT_FOUND, Engine, EngineRefused, Json, auth_header
from wopr.fleet.runtimes.nodes import NANO, NodeAway, node_of, require_works
from wopr.fleet.runtimes.protocol import RuntimeFailed
from wopr.fleet.runtimes.services import LABEL_ERRAND, LABEL_NODE, OVER

LABEL_WORK = "wopr.work"
LEFT_SECONDS_MAX = 30.0
ABANDONED_AFTER = timedelta(minutes=1)
POLL_SECONDS_FIRST = 0.1
POLL_SECONDS_MAX = 1.0
AGAIN = "on-failure"
COMPLETE = "complete"
IN_USE = 400
UNTOLD = 1  # the exit code of what never ran, or ended in a way that tells none

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Errand:
    """What the agent's program is to do on one machine. `auth` is handed over as a secret of the Swarm."""

    name: str
    node_id: str
    subject: str
    arguments: tuple[str, ...]
    auth: Mapping[str, str] | None = field(default=None, repr=False)

    @property
    def work(self) -> str:
        """Tells errands of one name apart."""
        told = json.dumps([self.node_id, *self.arguments, agents.SCRIPT])
        return hashlib.sha256(told.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Result:
    """How it ended: the program's exit code, and the last thing that it said."""

    code: int
    text: str


class Errands:
    """The errands of one installation."""

    def __init__(self, engine: Engine, charge: Charge) -> None:
        self._engine = engine
        self._charge = charge

    async def leave(self, errand: Errand) -> None:
        """Have it done now, or when its machine is back; it is tried until it is done, and nobody needs to wait."""
        description = self._describe(errand)
        description["TaskTemplate"]["RestartPolicy"] = {"Condition": AGAIN, "Delay": 5 * NANO}
        await self._create(description)

    async def finish(self, name: str) -> bool:
        """Wait for one that was left, and forget it; False when it takes longer than it may."""
        try:
            async with asyncio.timeout(LEFT_SECONDS_MAX):
                while (tasks := await self._tasks(name)) is not None:
                    if any(task["Status"]["State"] == COMPLETE for task in tasks):
                        break
                    await asyncio.sleep(POLL_SECONDS_FIRST)
        except TimeoutError:
            log.warning("bot.data_remains", errand=name)
            return False
        await self.forget(name)
        return True

    async def run(self, errand: Errand, seconds_max: float) -> Result:
        """Have it done once, and wait for its end. Raises `NodeAway`; `RuntimeFailed` when it takes too long."""
        result: Result | None = None
        try:
            async with asyncio.timeout(seconds_max):
                while result is None:
                    await self._begin(errand)
                    result = await self._ended(errand)
        except TimeoutError:
            await self.forget(errand.name)
            raise RuntimeFailed(
                f"Its machine has not done {errand.arguments[0]} within {seconds_max / 60:.0f} minutes.",
                remedy="It is tried again. See: docker node ls",
            ) from None
        except NodeAway:
            await self.forget(errand.name)
            raise
        await self.forget(errand.name)
        return result

    async def forget(self, name: str) -> None:
        """End it, and remove what it was told; one that is gone is fine."""
        await self._delete(f"services/{name}")
        await self._delete(f"secrets/{name}")

    async def sweep(self, machines: Container[str]) -> int:
        """Forget those that are done, and what nobody waits for or can do any more; how many.

        Left behind by processes that died, or for machines that are not in the Swarm any more.
        """
        now, done = datetime.now(UTC), 0
        for task in await self._engine.call("GET", "tasks", query={"filters": self._ours}):
            left = (task["Spec"].get("RestartPolicy") or {}).get("Condition") == AGAIN
            state, at = task["Status"]["State"], parse_time(task["Status"]["Timestamp"])
            over = (state == COMPLETE) if left else (state in OVER and now - at > ABANDONED_AFTER)
            if over or _label(task, LABEL_NODE) not in machines:
                done += 1
                await self._delete(f"services/{task['ServiceID']}")
        for secret in await self._engine.call("GET", "secrets", query={"filters": self._ours}):
            if now - parse_time(secret["CreatedAt"]) > ABANDONED_AFTER:
                # The Swarm keeps those that are in use.
                await self._delete(f"secrets/{secret['ID']}", in_use=True)
        return done

    @property
    def _ours(self) -> str:
        return json.dumps({"label": [f"{LABEL_INSTALLATION}={self._charge.installation}", LABEL_ERRAND]})

    async def _begin(self, errand: Errand) -> None:
        """Have its service. One that has ended, or is on another errand, gives way."""
        tasks = await self._tasks(errand.name)
        if tasks is not None:
            if all(_label(task, LABEL_WORK) == errand.work and task["Status"]["State"] not in OVER for task in tasks):
                return
            await self.forget(errand.name)
        description = self._describe(errand)
        description["TaskTemplate"]["RestartPolicy"] = {"Condition": "none"}
        if errand.auth is not None:
            secret = await self._secret(errand)
            if secret is None:
                return
            description["TaskTemplate"]["ContainerSpec"]["Secrets"] = [secret]
        await self._create(description)

    async def _secret(self, errand: Errand) -> dict[str, Any] | None:
        """The errand's secret; None when another process is handing over its own."""
        if not await self._delete(f"secrets/{errand.name}", in_use=True):
            return None
        data = base64.b64encode(auth_header(errand.auth or {}).encode()).decode()
        body = {"Name": errand.name, "Labels": self._labels(errand), "Data": data}
        try:
            made = await self._engine.call("POST", "secrets/create", body=body)
        except EngineRefused as error:
            if error.http_status != CONFLICT:
                raise
            return None
        file = {"Name": node_agent.AUTH, "UID": "0", "GID": "0", "Mode": 0o400}
        return {"SecretID": made["ID"], "SecretName": errand.name, "File": file}

    async def _ended(self, errand: Errand) -> Result | None:
        """Its result; None when its service is gone, since another process waited for it as well."""
        pause = POLL_SECONDS_FIRST
        while (tasks := await self._tasks(errand.name)) is not None:
            if tasks and tasks[-1]["Status"]["State"] in OVER:
                return await self._result(tasks[-1])
            node = await self._engine.call("GET", f"nodes/{errand.node_id}")
            require_works(node_of(node))
            await asyncio.sleep(pause)
            pause = min(POLL_SECONDS_MAX, pause * 1.3)
        await asyncio.sleep(pause)
        return None

    async def _result(self, task: Json) -> Result:
        status = task["Status"]
        if status["State"] == COMPLETE:
            return Result(0, "")
        code = int((status.get("ContainerStatus") or {}).get("ExitCode") or UNTOLD)
        try:
            lines = await enginelog.tail(self._engine, task["ID"], 5, "tasks")
        except EngineRefused:
            lines = []  # forgotten by another process in this moment
        return Result(code, lines[-1].text if lines else str(status.get("Err") or "it told no reason"))

    async def _tasks(self, name: str) -> list[Json] | None:
        """The errand's tasks, oldest first; None when there is no such errand."""
        try:
            found = await self._engine.call("GET", "tasks", query={"filters": json.dumps({"service": [name]})})
        except EngineRefused as error:
            if error.http_status != NOT_FOUND:
                raise
            return None
        return sorted(found, key=lambda task: str(task["CreatedAt"]))

    def _labels(self, errand: Errand) -> dict[str, str]:
        return {
            LABEL_INSTALLATION: self._charge.installation,
            LABEL_ERRAND: errand.subject,
            LABEL_NODE: errand.node_id,
            LABEL_WORK: errand.work,
        }

    def _describe(self, errand: Errand) -> dict[str, Any]:
        description = agents.describe(self._charge, errand.name, self._labels(errand), errand.arguments)
        description["TaskTemplate"]["Placement"] = {"Constraints": [f"node.id=={errand.node_id}"]}
        description["Mode"] = {"Replicated": {"Replicas": 1}}
        return description

    async def _create(self, description: Json) -> None:
        try:
            await self._engine.call("POST", "services/create", body=description, auth=self._charge.auth)
        except EngineRefused as error:
            if error.http_status != CONFLICT:  # otherwise another process made it a moment ago
                raise

    async def _delete(self, path: str, *, in_use: bool = False) -> bool:
        """Delete it; what is gone is fine. With `in_use`, what is still needed stays, and the answer is False."""
        try:
            await self._engine.call("DELETE", path)
        except EngineRefused as error:
            if in_use and error.http_status == IN_USE:
                return False
            if error.http_status != NOT_FOUND:
                raise
        return True


def _label(task: Json, name: str) -> str:
    return str((task["Spec"]["ContainerSpec"].get("Labels") or {}).get(name, ""))
