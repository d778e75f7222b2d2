"""The bots' network on one engine: made when it is missing, refused when it is not what it must be."""

from typing import Any  # the engine's JSON

from wopr.fleet.runtimes.addresses import BotNetwork
from wopr.fleet.runtimes.engine import CONFLICT, NOT_FOUND, Engine, EngineRefused, Json
from wopr.fleet.runtimes.protocol import RuntimeFailed

OPTION_NAME = "com.docker.network.bridge.name"
OPTION_BETWEEN = "com.docker.network.bridge.enable_icc"
OVERLAPS = ("overlap", "conflicts with network")


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

    async def ensure(self) -> bool:
        """Have the network; True when it was looked at now. Raises `NetworkFailed`."""
        if self._there:
            return False
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
        return True

    def doubt(self) -> None:
        """Look again before the next start."""
        self._there = False

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
                raise NetworkFailed(
                    f"The bots' network {self._network.subnet} collides with another one: {error.reason}",
                    remedy="Set BOT_SUBNET to a free network, such as 10.203.64.0/21.",
                ) from error
            if error.http_status != CONFLICT:  # otherwise another process made it a moment ago
                raise


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
