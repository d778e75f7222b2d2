"""What `wopr status` leaves in the journal of an installation that it looked at."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from wopr.delivery.glance import Answer, Glance
from wopr.delivery.observing import observe_installation
from wopr.delivery.release import Part, State
from wopr.ops.journal import Journal
from wopr.ops.logbook.checklist import Item, checklist, known_from

AFTER_SECONDS = 120.0
SERVING = State(active=Part(1, "blue"))


def glance(state: State = SERVING, pages: str = "ok", **services: bool) -> Glance:
    answers = (Answer("api", "ok"), Answer("pages", pages), Answer("database", "ok"))
    node: Mapping[str, object] = {"id": "gpu-1", "host": "10.0.0.9", "services": services}
    return Glance(state, None, (), answers, nodes=[node])


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path)
    with made.operation("deploy"):
        pass
    return made


def healthy(journal: Journal) -> Item:
    return next(item for item in checklist(known_from(journal.read())) if item.says == "All services healthy")


def test_services_of_the_installation_and_of_its_nodes_are_all_healthy(journal: Journal) -> None:
    observe_installation(journal, glance(llama=True, qwen=True), AFTER_SECONDS)
    assert (healthy(journal).done, healthy(journal).evidence) == (True, "5 services")


@pytest.mark.parametrize(
    ("seen", "evidence"),
    [(glance(llama=True, qwen=False), "not ok: qwen on gpu-1"), (glance(pages="down", llama=True), "not ok: pages")],
)
def test_what_is_down_is_named(journal: Journal, seen: Glance, evidence: str) -> None:
    observe_installation(journal, seen, AFTER_SECONDS)
    assert (healthy(journal).done, healthy(journal).evidence) == (False, evidence)


def test_looking_twice_or_where_nothing_serves_leaves_nothing(journal: Journal, tmp_path: Path) -> None:
    observe_installation(journal, glance(llama=True), AFTER_SECONDS)
    before = journal.path.read_bytes()
    observe_installation(journal, glance(llama=True), AFTER_SECONDS)
    observe_installation(journal, glance(State(), llama=False), AFTER_SECONDS)
    assert journal.path.read_bytes() == before
    observe_installation(Journal(tmp_path / "nothing"), glance(llama=True), AFTER_SECONDS)
    assert not (tmp_path / "nothing").exists()
