"""Goal D13: how many checks there are, how long they take, which planted faults they name, and false alarms.

The faults are those of the tests: 60 and more ways in which operators break an installation, on real containers; and
those of names, certificates and restarts, in the stand-ins of their checks.

    benchmarks/checks.py
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from report import median, run, say, table

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.delivery.edge_faults import EDGE_FAULTS, sound_edge
from tests.machines import building, engine
from tests.machines.faults import COMPLAINTS, EXPECTED, FAULTS, Site, complaints, found, named, planted
from tests.machines.installation import fresh
from tests.machines.nodes import here
from tests.machines.test_checks import MAIL_KEY, sound
from tests.serving import served

from wopr.emulators.resend import ResendSettings, build_resend
from wopr.emulators.stripe import StripeSettings, build_stripe

ROUNDS = 5


def main() -> None:
    with running() as site:
        took, alarms, count = [], 0, 0
        for _ in range(ROUNDS):
            began = time.monotonic()
            outcomes = found(site)
            took.append(time.monotonic() - began)
            alarms, count = alarms + len(complaints(outcomes)), len(outcomes)
        hits = Counter[bool](named_at_the_edge())
        for fault in FAULTS:
            with planted(site, fault):
                right = named(site, fault).finding.verdict in COMPLAINTS
            hits[right] += 1
            if not right:
                say(f"not named: {fault.name} by {fault.check}")
    rows = [
        ("checks of an installation", f"{count}", "≥ 40"),
        ("all of them, median", f"{median(took):.1f} s", "20 s"),
        ("planted faults named", f"{hits[True]} of {hits.total()} ({hits[True] / hits.total():.0%})", "95 %"),
        (f"false alarms in {ROUNDS} rounds (not counted: {', '.join(sorted(EXPECTED))})", f"{alarms}", "0"),
    ]
    table("Checks (D13)", ("what", "measured", "goal"), rows)


def named_at_the_edge() -> Iterator[bool]:
    """For each fault that no installation of the tests can be given whether its check names it, and was content."""
    for fault in EDGE_FAULTS:
        with tempfile.TemporaryDirectory(prefix="wopr-checks-") as folder, sound_edge(Path(folder)) as edge:
            sound = edge.found(fault.check)
            fault.plant(edge)
            right = sound.verdict not in COMPLAINTS and edge.found(fault.check).verdict in COMPLAINTS
        if not right:
            say(f"not named, or before it was planted: {fault.name} by {fault.check}")
        yield right


@contextmanager
def running() -> Iterator[Site]:
    """A sound installation on this machine's engine, with its companies."""
    say("images, and a first release")
    with engine.running() as docker:
        for name in building.THIRD_PARTIES:
            building.ensure(docker, name)
        made = fresh(docker, building.ours(docker, "platform"))
        resend = build_resend(ResendSettings(api_key=MAIL_KEY, strict=True))
        hook = StripeSettings(webhook_url=f"{made.api}/api/billing/webhook")
        with served(build_stripe(hook), here()) as stripe, served(resend, here()) as mail:
            try:
                yield sound(made, Site(made, stripe, mail))
            finally:
                made.remove()


if __name__ == "__main__":
    run(main)
