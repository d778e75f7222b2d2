"""Which worker gets which tests, and in which order, where several of them work on what takes long.

What takes longest begins first, so that no worker is left alone with it at the end.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from xdist.scheduler import LoadScopeScheduling

# What only one worker may have: all that needs the Swarm, which takes long to make, and all with whole machines, which
# take what the others need (those of the runbook share its names, too). Everything else is divided by file.
SHARED: Mapping[str, Sequence[str]] = {
    "machines": (
        "tests/runbook",
        *(f"machines/test_{name}.py" for name in ("droplets", "provision", "faults", "rehearse")),
    ),
    "swarm": ("swarm",),
}
# What takes minutes, the longest first. It is a matter of time alone: a name that is missing here or is there no longer
# costs some of it.
LONGEST = (
    "machines",
    "swarm",
    "tests/machines/test_releases.py",
    "tests/machines/test_bots.py",
    "tests/machines/test_live_installation.py",
    "tests/machines/test_migrations.py",
    "tests/machines/test_deliver.py",
    "tests/api/test_specification.py",
    "tests/cli/test_up.py",
    "tests/inference/provision/test_kills.py",
    "tests/e2e/test_pages.py",
    "tests/web/test_browser.py",
    "tests/web/test_layout.py",
    "tests/machines/test_stack.py",
    "tests/machines/test_checks.py",
    "tests/machines/test_releases_streams.py",
    "tests/machines/test_releases_observed.py",
    "tests/machines/test_releases_ssh.py",
)


class LongestFirst(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Each file is for one worker alone, and so is what several files share."""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        # Of all others, those with most tests come first: so they are already in the queue.
        self.workqueue.move_to_end(min(self.workqueue, key=rank), last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: Any) -> None:
        # A worker begins a test when it knows the next one. One more besides, as pytest-xdist would have it, may be a
        # file of minutes that waits behind a file of minutes.
        if self._pending_of(self.assigned_work[node]) < 2 or not self.workqueue:
            super()._reschedule(node)


def scope(nodeid: str) -> str:
    """What a test is kept together with."""
    named = (name for name, parts in SHARED.items() if any(part in nodeid for part in parts))
    return next(named, nodeid.partition("::")[0])


def rank(scope: str) -> int:
    """The place of a scope in the order of beginning; it is the same for all that don't take long."""
    return LONGEST.index(scope) if scope in LONGEST else len(LONGEST)
