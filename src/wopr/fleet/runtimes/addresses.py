"""Names and addresses of the bots' network, computed from the settings alone, so that every process agrees on them.

The lower half of the subnet belongs to the platform: its first address is the host, the others are given by hand to
containers of ours (proxy, API) that bots may reach or that reach bots. The upper half is handed out to bots.
"""

import hashlib
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from urllib.parse import urlsplit

from wopr.core.errors import NotConfigured
from wopr.core.settings import Settings

MAIN_INSTALLATION = "wopr"
GATEWAY_NAME = "gateway"  # in BOT_GATEWAY_URL: the container with the label of that name, on the bots' network
DEFAULT_PREFIX = 21
PREFIX_MIN, PREFIX_MAX = 16, 24
NOBODY, EVERYBODY = IPv4Network("0.0.0.0/32"), IPv4Network("0.0.0.0/0")
DEFAULT_BRIDGE = IPv4Network("172.17.0.0/16")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class BotNetwork:
    """The network of one installation. `bridge` is an interface of the host: 15 characters at most (Linux)."""

    name: str
    bridge: str
    chain: str
    subnet: IPv4Network

    @property
    def host(self) -> IPv4Address:
        return self.subnet[1]

    @property
    def gateway(self) -> IPv4Address:
        """The address of our proxy's container where the platform itself runs in containers."""
        return self.subnet[2]

    @property
    def platform(self) -> IPv4Network:
        return next(self.subnet.subnets(prefixlen_diff=1))

    @property
    def bots(self) -> IPv4Network:
        return list(self.subnet.subnets(prefixlen_diff=1))[1]


class SharedBridge(BotNetwork):
    """The default network of a Swarm's machines, whose addresses only they know: all that is on it is a bot.

    A network of our own there would be lost with every power cut: tasks are then refused with "network exists"
    (moby/moby issues 37087 and 38318), and only the machine's operator can mend that.
    """

    @property
    def platform(self) -> IPv4Network:
        return NOBODY

    @property
    def bots(self) -> IPv4Network:
        return EVERYBODY


@dataclass(frozen=True)
class Gateway:
    """Where bots reach the platform, as an address that a firewall can be told."""

    address: IPv4Address
    port: int


def bot_network(settings: Settings) -> BotNetwork:
    """The network of these settings; NotConfigured when BOT_SUBNET is none.

    Its name comes after `wopr-platform` in the alphabet: the engine takes a container's first network for its way out,
    and whoever attached the proxy to an earlier one would move its published ports and cut everybody's connections.
    """
    installation = settings.installation
    name = f"{installation}-platform-bots"
    subnet = _parse(settings.bot_subnet) if settings.bot_subnet else _made_from(installation)
    if installation == MAIN_INSTALLATION:
        return BotNetwork(name, "wopr-bots", "WOPR-BOTS", subnet)
    short = hashlib.sha256(installation.encode()).hexdigest()[:8]
    return BotNetwork(name, f"wopr-{short}", f"WOPR-BOTS-{short}", subnet)


def shared_bridge(settings: Settings) -> SharedBridge:
    """What bots of a Swarm are on, on each machine."""
    own = bot_network(settings)
    return SharedBridge("bridge", "docker0", own.chain, DEFAULT_BRIDGE)


def gateway_url(settings: Settings) -> str:
    """The base address at which bots reach the API, without a slash at the end."""
    if settings.bot_runtime == "process":
        return settings.internal_url
    parts = urlsplit(settings.bot_gateway_url.rstrip("/"))
    by_name = parts.hostname == GATEWAY_NAME
    if settings.bot_gateway_url and not by_name:
        return parts.geturl()
    if settings.bot_runtime == "swarm":
        raise NotConfigured(
            "BOT_GATEWAY_URL is not set, so bots on other machines would not find the API.",
            remedy="Give an address of the API that every machine of the Swarm reaches, as http://10.0.0.5:3100.",
        )
    if by_name:
        return f"{parts.scheme}://{bot_network(settings).gateway}:{parts.port or 80}"
    return f"http://{bot_network(settings).host}:{settings.api_port}"


def gateway(settings: Settings) -> Gateway | None:
    """The same for the firewall; None when it is outside, where bots may go anyway."""
    parts = urlsplit(gateway_url(settings))
    try:
        address = IPv4Address(parts.hostname or "")
    except AddressValueError:
        if parts.hostname in LOOPBACK_NAMES or "." not in (parts.hostname or ""):
            raise NotConfigured(
                f"BOT_GATEWAY_URL={settings.bot_gateway_url} means something else inside a bot's container.",
                remedy=f"Give an IPv4 address, a public name or http://{GATEWAY_NAME}:PORT, or leave it empty.",
            ) from None
        return None
    return Gateway(address, parts.port or (443 if parts.scheme == "https" else 80))


def listen_addresses(settings: Settings) -> tuple[str, ...]:
    """Where the API listens: API_HOST, and the host's address on the bots' network when bots reach it there."""
    if settings.bot_runtime != "docker" or settings.bot_gateway_url or settings.api_host in ("0.0.0.0", "::"):  # noqa: S104
        return (settings.api_host,)
    return settings.api_host, str(bot_network(settings).host)


def name_servers(text: str) -> tuple[IPv4Address, ...]:
    """BOT_DNS; NotConfigured when it is none."""
    try:
        return tuple(IPv4Address(part.strip()) for part in text.split(",") if part.strip())
    except AddressValueError as error:
        raise NotConfigured(
            f"BOT_DNS={text} is no list of addresses: {error}.", remedy="Write it as 1.1.1.1,9.9.9.9."
        ) from error


def _parse(text: str) -> IPv4Network:
    try:
        subnet = IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise NotConfigured(
            f"BOT_SUBNET={text} is no network: {error}.", remedy="Write it as 10.203.64.0/21."
        ) from error
    if not PREFIX_MIN <= subnet.prefixlen <= PREFIX_MAX:
        raise NotConfigured(
            f"BOT_SUBNET={text} has the wrong size.", remedy=f"Choose one from /{PREFIX_MIN} to /{PREFIX_MAX}."
        )
    return subnet


def _made_from(installation: str) -> IPv4Network:
    """One of 4,064 networks in 10.128.0.0–10.254.255.255, where clouds and home routers rarely put theirs."""
    if installation == MAIN_INSTALLATION:
        return IPv4Network(f"10.203.64.0/{DEFAULT_PREFIX}")
    first, second = hashlib.sha256(installation.encode()).digest()[:2]
    return IPv4Network(f"10.{128 + first % 127}.{second & 0b11111000}.0/{DEFAULT_PREFIX}")
