"""What people are told when repairs that are due are held back for long: which nodes, why, what to do. Pure."""

from collections.abc import Mapping, Sequence

from wopr.inference.alerts import Alert
from wopr.inference.nodes import Node
from wopr.inference.repair_state import repair_of
from wopr.inference.sights import memories_of

NAMES_MAX = 10
WHAT_TO_DO = (
    "Look whether the machine of the API reaches them: its network, the cloud's status, GPU_ADMIT. `wopr nodes list` "
    "says what is being done. Repairs go on by themselves as soon as they may; a rented machine that is really down is "
    "restarted at once by `wopr nodes reboot NODE`."
)


def held_alert(held: Mapping[str, str]) -> Alert:
    """The words for nodes by name and why each is left alone."""
    by_reason: dict[str, list[str]] = {}
    for node, why in sorted(held.items()):
        by_reason.setdefault(why, []).append(node)
    reasons = "; ".join(f"{_names(nodes)}: {why}" for why, nodes in by_reason.items())
    return Alert(f"Nothing is done for nodes that do not serve: {_names(sorted(held))}", f"{reasons}. {WHAT_TO_DO}")


def occasion(nodes: Sequence[Node], held: Mapping[str, str]) -> str:
    """A key of this time of holding back that another process finds too: it began with the same failure."""
    return f"held:{min((_failing_since(node) for node in nodes if node.id in held), default=0)}"


def _failing_since(node: Node) -> int:
    since = [memory.failing_since for memory in memories_of(node.probe_state).values()]
    return min((at for at in since if at is not None), default=repair_of(node).since)


def _names(nodes: Sequence[str]) -> str:
    more = len(nodes) - NAMES_MAX
    return ", ".join(nodes[:NAMES_MAX]) + (f" and {more} more" if more > 0 else "")
