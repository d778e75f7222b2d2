"""The fence around bots, as text for iptables: who may talk to whom on their network. Pure.

Bots reach the gateway, the name servers and the public outside; not each other, not the host, not the database, not
private networks and not the cloud's metadata. Only the platform's own addresses reach bots. Rules are decided on the
original destination of a connection (conntrack), so that a published port of the host counts as what the bot asked for.

Three chains of our own hold everything. `-OUT` and `-IN` hang in DOCKER-USER, which Docker asks first and never
rewrites, `-HOST` in INPUT. Declaring a chain to `iptables-restore --noflush` empties it, and one COMMIT replaces all at
once, so applying is safe to repeat and leaves no moment without a fence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from wopr.bot import contract
from wopr.fleet.runtimes.addresses import BotNetwork, Gateway

# RFC 6890: this network, private, shared (carriers' and clouds' own), loopback, link-local with the metadata service,
# protocol assignments, benchmarks, multicast, reserved. And the public address that is Azure's own in each machine.
NOT_OUTSIDE = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
MAIL_PORT = 25
REFUSED = "REJECT --reject-with icmp-admin-prohibited"
NO_BRIDGE_FILTER, NO_DOCKER_CHAIN, NO_IPTABLES = 11, 12, 13

# Which of the two back ends holds Docker's chains is the host's choice; the tool must be the same one.
SCRIPT = """
set -eu
[ "$(cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || echo 0)" = 1 ] || exit 11
tool=
for candidate in iptables iptables-nft iptables-legacy; do
  command -v "$candidate" >/dev/null || continue
  tool=${tool:-none}
  if "$candidate" -w 10 -S DOCKER-USER >/dev/null 2>&1; then tool=$candidate; break; fi
done
case "$tool" in "") exit 13;; none) exit 12;; esac
case "$tool" in iptables) restore=iptables-restore;; *) restore=$tool-restore;; esac
printf '%s' "$1" | "$restore" --noflush -w 10
shift
while [ $# -gt 0 ]; do
  # Split into words on purpose: each argument is a chain and a rule.
  "$tool" -w 10 -C $1 2>/dev/null || "$tool" -w 10 -I $1
  shift
done
"""


@dataclass(frozen=True)
class Policy:
    """Whom the fence is for and what it lets through. Without a gateway bots find it outside.

    Where bots are spread over machines, the platform reaches them from `callers`, and `machines` are those that they
    must not reach although their addresses may be public.
    """

    network: BotNetwork
    gateway: Gateway | None
    name_servers: Sequence[IPv4Address] = ()
    callers: Sequence[IPv4Network] = ()
    machines: Sequence[IPv4Address] = ()


def rules(policy: Policy) -> str:
    """Input for `iptables-restore --noflush`."""
    network, chain = policy.network, policy.network.chain
    out, into, host = f"{chain}-OUT", f"{chain}-IN", f"{chain}-HOST"
    answers = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    lines = ["*filter", *(f":{name} - [0:0]" for name in (out, into, host))]
    lines += [f"-A {name} {answers}" for name in (out, into, host)]
    # The platform's containers on the bots' network are no bots: they go where they want.
    lines += [f"-A {out} -s {network.platform} -j RETURN"]
    for name in (out, host):
        lines += [f"-A {name} {allowed}" for allowed in _allowed(policy)]
    lines += [f"-A {out} -d {block} -j {REFUSED}" for block in NOT_OUTSIDE]
    lines += [f"-A {out} -d {closed} -j {REFUSED}" for closed in (network.subnet, *policy.machines)]
    lines += [f"-A {out} -p tcp --dport {MAIL_PORT} -j {REFUSED}"]
    lines += [f"-A {host} -s {network.platform} -j RETURN", f"-A {host} -j {REFUSED}"]
    lines += [
        f"-A {into} -s {caller} -d {network.bots} -p tcp --dport {contract.DEFAULT_PORT} -j ACCEPT"
        for caller in (network.platform, *policy.callers)
    ]
    lines += [f"-A {into} -d {network.bots} -j DROP"]
    return "\n".join([*lines, "COMMIT", ""])


def jumps(policy: Policy) -> tuple[str, ...]:
    """Where our chains hang: each a chain of the system and a rule. What leads to bots is asked before what they do."""
    bridge, chain = policy.network.bridge, policy.network.chain
    return (
        f"DOCKER-USER -o {bridge} -j {chain}-IN",
        f"DOCKER-USER -i {bridge} -j {chain}-OUT",
        f"INPUT -i {bridge} -j {chain}-HOST",
    )


def command(policy: Policy) -> tuple[str, ...]:
    """The program that puts the fence up, for the host or a container with the host's network."""
    return ("sh", "-c", SCRIPT, "fence", rules(policy), *jumps(policy))


def removal(policy: Policy) -> tuple[str, ...]:
    """The program that takes the fence away, for an installation that is given up."""
    chain = policy.network.chain
    names = " ".join(f"{chain}-{end}" for end in ("OUT", "IN", "HOST"))
    lines = [f"iptables -w 10 -D {jump} 2>/dev/null" for jump in jumps(policy)]
    return (
        "sh",
        "-c",
        "\n".join([*lines, f"for c in {names}; do iptables -w 10 -F $c; iptables -w 10 -X $c; done; true"]),
    )


def explain(code: int, text: str) -> tuple[str, str]:
    """What went wrong, and the remedy, from the program's exit code and what it wrote."""
    if code == NO_BRIDGE_FILTER:
        return (
            "bridged packets bypass iptables on this machine, so bots could reach each other",
            "Run: modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1",
        )
    if code == NO_DOCKER_CHAIN:
        return (
            "Docker's chain DOCKER-USER is not there",
            "Let Docker manage iptables (no iptables=false, no nftables back end), or set BOT_FIREWALL=container.",
        )
    if code == NO_IPTABLES:
        return "there is no iptables here", "Install iptables, or set BOT_FIREWALL_IMAGE to an image that has it."
    last = text.strip().splitlines()[-1:] or [f"exit code {code}"]
    return last[0], "Run the API as root or let it use the engine (BOT_FIREWALL=container)."


def _allowed(policy: Policy) -> list[str]:
    original = "-m conntrack --ctorigdst {} --ctorigdstport {} -j ACCEPT"
    lines = []
    if policy.gateway is not None:
        lines.append(f"-p tcp {original.format(policy.gateway.address, policy.gateway.port)}")
    for server in policy.name_servers:
        lines += [f"-p {protocol} {original.format(server, 53)}" for protocol in ("udp", "tcp")]
    return lines
