"""Puts the runtime of a Swarm together, and tells its operator of machines that bots wait for."""

from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError

from wopr.core.errors import NotConfigured
from wopr.core.settings import Settings
from wopr.core.vault import Vault
from wopr.fleet.runtimes.addresses import bot_network, gateway, name_servers, shared_bridge
from wopr.fleet.runtimes.agents import Charge
from wopr.fleet.runtimes.engine import Engine
from wopr.fleet.runtimes.fence import Means
from wopr.fleet.runtimes.firewall import Policy
from wopr.fleet.runtimes.images import Credentials
from wopr.fleet.runtimes.swarm import Away, SwarmInstallation, SwarmRuntime
from wopr.ops.incidents import Severity
from wopr.ops.journal import Journal
from wopr.ops.outages import Watch, Watched

WATCH = "swarm"


def swarm_runtime(settings: Settings) -> SwarmRuntime:
    """Bots as services of the Swarm that the engine at DOCKER_HOST manages. NotConfigured names what is missing."""
    tokens = Vault(settings.require("platform_secret", "Running bots"), "wopr bots tokens")
    password = settings.registry_password.get_secret_value() if settings.registry_password else ""
    policy = Policy(
        shared_bridge(settings),
        gateway(settings),
        name_servers(settings.bot_dns),
        callers=_callers(settings.bot_callers),
    )
    charge = Charge(
        settings.installation,
        f"{bot_network(settings).name}-agent",
        Means(settings.bot_firewall, settings.bot_firewall_image),
        policy,
        Credentials(settings.registry_server, settings.registry_username, password),
        settings.bot_disk_reserve,
    )
    report = Reporter(Watch(Journal(settings.wopr_home), WATCH, after_seconds=0.0))
    return SwarmRuntime(
        Engine(settings.docker_host), SwarmInstallation(settings.bot_image, charge, tokens, report.tell)
    )


class Reporter:
    """Opens an incident for each machine that bots wait for, and resolves it when it is back."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._known: dict[str, str] = {}

    def tell(self, away: Sequence[Away]) -> None:
        """What is away now. Blocks for the journal's disk."""
        for machine in away:
            self._known[machine.node] = ""
        watched = [self._watched(name, away) for name in sorted(self._known)]
        self._watch.settle(watched, datetime.now(UTC))

    def _watched(self, name: str, away: Sequence[Away]) -> Watched:
        found = next((machine for machine in away if machine.node == name), None)
        bots = "" if found is None else "1 bot waits" if found.bots == 1 else f"{found.bots} bots wait"
        title = f"The machine {name} is away, and {bots} for it" if found else f"The machine {name} is back"
        return Watched(f"swarm-{name}", title, Severity.SEV3, found is not None, detail=found.reason if found else "")


def _callers(text: str) -> tuple[IPv4Network, ...]:
    try:
        return tuple(IPv4Network(part.strip()) for part in text.split(",") if part.strip())
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise NotConfigured(
            f"BOT_CALLERS={text} is no list of addresses: {error}.", remedy="Write it as 10.0.0.5,10.0.1.0/24."
        ) from error
