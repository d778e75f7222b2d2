"""The bots' network on one engine: made when it is missing, refused when it is not what it must be.

Where the platform itself runs in containers, this one and the proxy are attached to it, at addresses of the platform's
half: so neither a compose file nor a person has to know the network, and a proxy that was made anew is attached again.
"""

import asyncio
import json
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any  # the engine's JSON

import structlog

from wopr.fleet.runtimes.addresses import BotNetwork
from wopr.fleet.runtimes.containers import LABEL_INSTALLATION
from wopr.fleet.runtimes.engine import CONFLICT, NOT_FOUND, Engine, EngineRefused, Json
from wopr.fleet.runtimes.protocol import RuntimeFailed

OPTION_NAME = "com.docker.network.bridge.name"
OPTION_BETWEEN = "com.docker.network.bridge.enable_icc"
LABEL_GATEWAY = "wopr.gateway"  # on the proxy's container, with the installation as its value
PLATFORM_FIRST = 3  # .0 is the network, .1 the host, .2 the gateway
INSIDE_CONTAINER = Path("/.dockerenv").exists()
CLEARING = "docker ps -aq --filter network={network} | xargs -r docker rm -f; docker network rm {network}"
OVERLAPS = ("overlap", "conflicts with network", "failed to allocate gateway")

log = structlog.get_logger(__name__)


class NetworkFailed(RuntimeFailed):
    """The bots' network can't be made or is another one than the settings say."""

    default_code = "bot_network"


class Bridge:
    """Remembers that the network is there until somebody doubts it."""

    def __init__(self, engine: Engine, network: BotNetwork, labels: dict[str, str]) -> None:
        self._engine = engine
        self._network = network
        self._labels = labels
        self._there = False
        self._joined = not INSIDE_CONTAINER
        self._making = asyncio.Lock()

    async def ensure(self) -> bool:
        """Have the network; True when it was looked at now. Raises `NetworkFailed`."""
        # One at a time: to the engine a second request for the same network is one for addresses that are taken.
        async with self._making:
            if self._there:
                return False
            await self._ensure()
            return True

    async def _ensure(self) -> None:
        found = await self._find()
        if found is None:
            await self._create()
            found = await self._find()
        if found is None:
            raise NetworkFailed(f"The network {self._network.name} vanished.", remedy="It is tried again by itself.")
        if (difference := differs(found, self._network)) is not None:
            raise NetworkFailed(
                f"The network {self._network.name} is not what the settings say: {difference}.",
                remedy=f"Stop the bots and run `docker network rm {self._network.name}`, or correct BOT_SUBNET.",
            )
        self._there = True

    def doubt(self) -> None:
        """Look again before the next start."""
        self._there = False
        self._joined = not INSIDE_CONTAINER

    async def join(self) -> None:
        """Be attached, once: a process that only passes requests on must reach bots, too."""
        if not self._joined:
            await self.attach()

    async def attach(self) -> int:
        """Put our own container and the proxy's on the network; how many were not. Nothing where we run in none."""
        own = await own_container(self._engine)
        if own is None or (found := await self._find()) is None:
            return 0
        done = 0
        attached = found.get("Containers") or {}
        for proxy in await self._engine.containers({LABEL_GATEWAY: self._labels[LABEL_INSTALLATION]}):
            if proxy["Id"] not in attached:
                done += await self._attach(str(proxy["Id"]), self._network.gateway)
        self._joined = own["Id"] in attached
        if self._joined:
            return done
        for address in self._free(attached):
            if await self._attach(str(own["Id"]), address):
                self._joined = True
                return done + 1
        raise NetworkFailed(f"{self._network.platform} has no free address.", remedy="Set BOT_SUBNET to a larger one.")

    async def _attach(self, container: str, address: IPv4Address) -> bool:
        """Put a container at this address; False when another one has it, such as that of a process beginning now."""
        body = {"Container": container, "EndpointConfig": {"IPAMConfig": {"IPv4Address": str(address)}}}
        try:
            await self._engine.call("POST", f"networks/{self._network.name}/connect", body=body)
        except EngineRefused as error:
            reason = error.reason.lower()
            if "already exists in network" in reason:  # another process of ours did it a moment ago
                return True
            if "already in use" not in reason:
                raise
            log.warning("bots.address_taken", address=str(address), container=container[:12])
            return False
        return True

    def _free(self, attached: Json) -> Iterator[IPv4Address]:
        taken = {IPv4Interface(entry["IPv4Address"]).ip for entry in attached.values() if entry.get("IPv4Address")}
        for number in range(PLATFORM_FIRST, self._network.platform.num_addresses):
            if self._network.subnet[number] not in taken:
                yield self._network.subnet[number]

    async def _find(self) -> Json | None:
        try:
            found: Json = await self._engine.call("GET", f"networks/{self._network.name}")
        except EngineRefused as error:
            if error.http_status == NOT_FOUND:
                return None
            raise
        return found

    async def _create(self) -> None:
        try:
            await self._engine.call("POST", "networks/create", body=describe(self._network, self._labels))
        except EngineRefused as error:
            if any(word in error.reason.lower() for word in OVERLAPS):
                if await self._find() is not None:  # another process made it meanwhile
                    return
                if former := await self._former():
                    raise NetworkFailed(
                        f"The network {former} of an older version has the addresses of {self._network.name}.",
                        remedy=f"{CLEARING.format(network=former)}\nBots come back by themselves, with all they know.",
                    ) from error
                raise NetworkFailed(
                    f"The bots' network {self._network.subnet} collides with another one: {error.reason}",
                    remedy="Set BOT_SUBNET to a free network, such as 10.203.64.0/21.",
                ) from error
            if error.http_status != CONFLICT:  # otherwise another process made it a moment ago
                raise

    async def _former(self) -> str:
        """The network of ours that stands in the way under another name; empty when it is none of ours."""
        query = {"filters": json.dumps({"label": [f"{LABEL_INSTALLATION}={self._labels[LABEL_INSTALLATION]}"]})}
        found = await self._engine.call("GET", "networks", query=query)
        return next((str(one["Name"]) for one in found if one["Name"] != self._network.name), "")


async def own_container(engine: Engine) -> Json | None:
    """The container in which this process runs; None when it runs in none that the engine knows.

    A container's host name is the beginning of its id, unless somebody gave it another one.
    """
    return await engine.inspect(socket.gethostname()) if INSIDE_CONTAINER else None


def describe(network: BotNetwork, labels: dict[str, str]) -> dict[str, Any]:
    """The network for the engine. Bots get addresses of the upper half, the lower one is the platform's."""
    ranges = {"Subnet": str(network.subnet), "IPRange": str(network.bots), "Gateway": str(network.host)}
    return {
        "Name": network.name,
        "CheckDuplicate": True,
        "Driver": "bridge",
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Config": [ranges]},
        "Options": {
            OPTION_NAME: network.bridge,
            OPTION_BETWEEN: "false",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
        },
        "Labels": labels,
    }


def differs(found: Json, network: BotNetwork) -> str | None:
    """What is not as it must be; None when all is well."""
    options = found.get("Options") or {}
    addresses = (found.get("IPAM", {}).get("Config") or [{}])[0]
    wanted = (
        ("its interface", options.get(OPTION_NAME), network.bridge),
        ("traffic between containers", options.get(OPTION_BETWEEN), "false"),
        ("its addresses", addresses.get("Subnet"), str(network.subnet)),
        ("the bots' addresses", addresses.get("IPRange"), str(network.bots)),
        ("IPv6", found.get("EnableIPv6"), False),
    )
    for what, is_, should in wanted:
        if is_ != should:
            return f"{what}: {is_} instead of {should}"
    return None
