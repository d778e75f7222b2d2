"""Has every machine of a Swarm looked after, by a service with one task on each.

A machine on which the fence is not up yet gets no bot.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from time import monotonic
from typing import Any  # the engine's JSON

from wopr.fleet.runtimes import agents, enginelog, firewall, node_agent, nodes
from wopr.fleet.runtimes.agents import Charge
from wopr.fleet.runtimes.containers import ours
from wopr.fleet.runtimes.engine import CONFLICT, NOT_FOUND, Engine, EngineRefused, Json
from wopr.fleet.runtimes.images import PullFailed, ask_registry
from wopr.fleet.runtimes.nodes import NANO, Node
from wopr.fleet.runtimes.protocol import RuntimeFailed

READY_SECONDS_MAX = 15.0
FAILURE_SECONDS = 10.0
POLL_SECONDS = 0.1
LABEL_AGENT = "wopr.agent"


class NodeUnfit(RuntimeFailed):
    """A machine can't be made ready for bots; those that run there go on."""

    default_code = "node_unfit"


class Caretaker:
    """Remembers what it saw to be in place; a change of the machines brings new rules to all of them."""

    def __init__(self, engine: Engine, charge: Charge) -> None:
        self._engine = engine
        self._charge = charge
        self._lock = asyncio.Lock()
        self._told = ""
        self._ready: set[str] = set()
        self._unfit: dict[str, tuple[float, NodeUnfit]] = {}

    async def ensure(self, known: Mapping[str, Node]) -> bool:
        """Have the agents, told what holds for these machines; True when something was done."""
        description = self._agents(known)
        async with self._lock:
            if self._told == description["Labels"][LABEL_AGENT]:
                return False
            done = await self._ensure_service(description)
            self._told = description["Labels"][LABEL_AGENT]
            return done

    def doubt(self) -> None:
        """Look again before the next start."""
        self._told = ""

    async def require(self, node: Node) -> None:
        """Wait until the machine is ready for bots. Raises `NodeUnfit` with what it lacks."""
        failed = self._unfit.get(node.id)
        if failed is not None and monotonic() - failed[0] < FAILURE_SECONDS:
            raise failed[1]
        try:
            async with asyncio.timeout(READY_SECONDS_MAX):
                while not await self._is_ready(node):  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            failure = await self._why_unfit(node)
            self._unfit[node.id] = (monotonic(), failure)
            raise failure from None

    @property
    def _name(self) -> str:
        return self._charge.agents

    async def _is_ready(self, node: Node) -> bool:
        tasks = await self._tasks_on(node)
        last = tasks[-1] if tasks else None
        if last is None or last["Status"]["State"] != "running":
            return False
        if last["ID"] not in self._ready:
            lines = await enginelog.tail(self._engine, last["ID"], 5, "tasks")
            # It complains on the other stream; what it says on this one, it says once it is up.
            if any(line.stream == "stdout" for line in lines):
                self._ready.add(str(last["ID"]))
        return last["ID"] in self._ready

    async def _tasks_on(self, node: Node) -> list[Json]:
        filters = json.dumps({"service": [self._name], "node": [node.id]})
        tasks: list[Json] = await self._engine.call("GET", "tasks", query={"filters": filters})
        return sorted(tasks, key=lambda task: str(task["CreatedAt"]))

    async def _why_unfit(self, node: Node) -> NodeUnfit:
        """What the agent said when it failed last; it begins again and again."""
        failed = [task for task in await self._tasks_on(node) if task["Status"]["State"] in ("failed", "rejected")]
        if not failed:
            return NodeUnfit(
                f"The machine {node.name} is not ready for bots yet.",
                remedy=f"It is tried again. See: docker service ps {self._name}",
            )
        task = failed[-1]
        code = int((task["Status"].get("ContainerStatus") or {}).get("ExitCode") or 0)
        lines = await enginelog.tail(self._engine, task["ID"], 5, "tasks") if code else []
        text = lines[-1].text if lines else str(task["Status"].get("Err") or "it does not start")
        if code == node_agent.NO_PROTECTION:
            what, remedy = text, 'Put "no-new-privileges": true into its /etc/docker/daemon.json, and restart Docker.'
        elif code:
            what, remedy = firewall.explain(code, text)
        else:
            what, remedy = text, "BOT_FIREWALL_IMAGE must be an image with Python and iptables, within its reach."
            if "image" in text.lower():
                try:
                    # The machine keeps to itself why it did not get it.
                    await ask_registry(self._engine, self._charge.means.image, self._charge.credentials)
                except PullFailed as failure:
                    what, remedy = failure.message.rstrip("."), failure.remedy
        return NodeUnfit(f"The machine {node.name} is not ready for bots: {what}.", remedy=remedy)

    def _agents(self, known: Mapping[str, Node]) -> dict[str, Any]:
        """The service of the agents. Its label changes with everything that they are told."""
        charge, off = self._charge, self._charge.means.how == "off"
        policy = replace(
            charge.policy,
            machines=nodes.addresses(known.values()),
            callers=charge.policy.callers or _hosts(nodes.addresses(known.values(), managers=True)),
        )
        told = {
            "installation": charge.installation,
            "fence": [] if off else firewall.command(policy),
            "reserve": charge.reserve,
        }
        text = json.dumps(told, sort_keys=True)
        # Of the registry's credentials, too: the Swarm keeps those that it was given, for machines that come later.
        parts = json.dumps([text, agents.SCRIPT, charge.means.image, charge.auth])
        version = hashlib.sha256(parts.encode()).hexdigest()[:16]
        description = agents.describe(charge, self._name, {**ours(charge.installation), LABEL_AGENT: version})
        container = description["TaskTemplate"]["ContainerSpec"]
        container["Env"] = [f"{node_agent.VARIABLE}={text}"]
        description["TaskTemplate"]["RestartPolicy"] = {"Condition": "any", "Delay": NANO}
        description["Mode"] = {"Global": {}}
        description["UpdateConfig"] = {"Parallelism": 0, "Order": "start-first", "FailureAction": "continue"}
        return description

    async def _ensure_service(self, description: dict[str, Any]) -> bool:
        try:
            found = await self._engine.call("GET", f"services/{self._name}")
        except EngineRefused as error:
            if error.http_status != NOT_FOUND:
                raise
            await self._create(description)
            return True
        if (found["Spec"].get("Labels") or {}).get(LABEL_AGENT) == description["Labels"][LABEL_AGENT]:
            return False
        await self._engine.call(
            "POST",
            f"services/{found['ID']}/update",
            query={"version": found["Version"]["Index"]},
            body=description,
            auth=self._charge.auth,
        )
        return True

    async def _create(self, body: dict[str, Any]) -> None:
        try:
            await self._engine.call("POST", "services/create", body=body, auth=self._charge.auth)
        except EngineRefused as error:
            if error.http_status != CONFLICT:  # otherwise another process made it a moment ago
                raise


def _hosts(addresses: Iterable[IPv4Address]) -> tuple[IPv4Network, ...]:
    return tuple(IPv4Network(address) for address in addresses)
