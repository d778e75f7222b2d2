"""Workers begin with what takes longest, keep whole files, and hoard nothing."""

from collections.abc import Sequence
from typing import Any

import pytest
from tests import scheduling
from tests.scheduling import LongestFirst

TESTS = [
    *(f"tests/many.py::test_{number}" for number in range(9)),
    "tests/core/long.py::test_one",
    "tests/core/longer.py::test_one",
    "tests/core/a.py::test_one",
    "tests/core/b.py::test_one",
    "tests/machines/test_swarm.py::test_one",
    "tests/contract/test_runtimes.py::test_one[swarm]",
    "tests/contract/test_runtimes.py::test_one[docker]",
]


class Worker:
    """What the scheduler asks of a worker: it keeps what it was sent."""

    def __init__(self, name: str) -> None:
        self.gateway = type("Gateway", (), {"id": name})()
        self.sent: list[str] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        self.sent += [TESTS[index] for index in indices]

    def shutdown(self) -> None:
        self.shutting_down = True


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> tuple[LongestFirst, Worker, Worker]:
    monkeypatch.setattr(scheduling, "LONGEST", ("swarm", "tests/core/longer.py", "tests/core/long.py"))
    option: Any = type("Option", (), {"loadscopereorder": True, "maxfail": 0})()
    config: Any = type("Config", (), {"option": option, "getvalue": lambda self, name: ["2*popen"]})()
    made, first, second = LongestFirst(config), Worker("gw0"), Worker("gw1")
    for worker in (first, second):
        made.add_node(worker)
        made.add_node_collection(worker, TESTS)
    made.schedule()
    return made, first, second


def test_what_takes_longest_begins_first_and_what_is_shared_stays_together(
    workers: tuple[LongestFirst, Worker, Worker],
) -> None:
    _, first, second = workers
    assert first.sent == ["tests/machines/test_swarm.py::test_one", "tests/contract/test_runtimes.py::test_one[swarm]"]
    # A worker begins a test when it knows the next one.
    assert second.sent[0] == "tests/core/longer.py::test_one"
    assert second.sent[1:] == ["tests/core/long.py::test_one"]


def test_a_worker_gets_the_next_file_only_when_one_test_is_left(workers: tuple[LongestFirst, Worker, Worker]) -> None:
    scheduler, first, second = workers
    scheduler.mark_test_complete(first, TESTS.index(first.sent[0]))
    assert first.sent[2:] == [test for test in TESTS if "many" in test]
    scheduler.mark_test_complete(second, TESTS.index(second.sent[0]))
    assert len(second.sent) == 3


def test_every_test_is_done_once_and_every_worker_ends(workers: tuple[LongestFirst, Worker, Worker]) -> None:
    scheduler, *both = workers
    done = dict.fromkeys(both, 0)
    while any(done[worker] < len(worker.sent) for worker in both):
        for worker in both:
            if done[worker] < len(worker.sent):
                scheduler.mark_test_complete(worker, TESTS.index(worker.sent[done[worker]]))
                done[worker] += 1
    assert sorted(both[0].sent + both[1].sent) == sorted(TESTS)
    assert [worker.shutting_down for worker in both] == [True, True]
