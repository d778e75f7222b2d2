"""What customers were answered: what is a release's fault, and what is another's trouble that must not take it back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from tests.delivery.killing import logged

from wopr.delivery.answers import (
    BEFORE_SECONDS,
    ERRORS_MIN,
    SETTLE_SECONDS,
    Answer,
    Counts,
    Since,
    before,
    counted,
    read,
    worse,
)
from wopr.delivery.errors import HostAway
from wopr.delivery.hosts import LocalHost, Output
from wopr.delivery.place import Place

PLACE = Place("/srv/wopr", "acme")
QUIET = Counts(requests=1000, errors=1, clients=9, failing=1)


def answers(*lines: str) -> list[Answer]:
    return list(read(lines))


def of(status: int, client: str = "203.0.113.1", times: int = 1, size: int = 15, method: str = "GET") -> list[Answer]:
    return [Answer("", client, 0.0, method, "/", status, size)] * times


def test_requests_are_read_and_what_else_caddy_says_is_left_out() -> None:
    found = answers(
        logged("2026-11-30T10:00:00.5Z", began=5.0, status=500, path="/fleet/bots?limit=5"),
        '2026-11-30T10:00:01Z {"level":"error","logger":"http.log.error","msg":"dial tcp: refused","status":502}',
        "2026-11-30T10:00:01Z {",
        logged("2026-11-30T10:00:02Z")[:-40],
        "",
    )
    assert found == [Answer("2026-11-30T10:00:00.5Z", "203.0.113.1", 5.0, "GET", "/fleet/bots", 500, 15)]


@pytest.mark.parametrize("path", ["/ready", "/health", "/api/status", "/hooks/github"])
def test_what_machines_ask_is_not_counted(path: str) -> None:
    assert answers(logged("x", status=500, path=path)) == []


@pytest.mark.parametrize(
    ("status", "size", "method", "fault"),
    [
        (200, 15, "GET", False),
        (404, 15, "GET", False),
        (500, 15, "POST", True),
        (502, 120, "POST", False),  # a model failed, and the API says so
        (503, 120, "POST", False),
        (502, 0, "POST", True),  # Caddy's own: no slot answered
        (503, 0, "GET", True),
        (502, 0, "HEAD", False),  # no answer to HEAD has a body
    ],
)
def test_a_release_is_at_fault_for_what_it_answers_and_not_for_what_stands_behind_it(
    status: int, size: int, method: str, *, fault: bool
) -> None:
    assert of(status, size=size, method=method)[0].at_fault is fault


def test_answers_are_added_up_by_client() -> None:
    found = counted([*of(200, "a", 3), *of(500, "a"), *of(200, "b"), *of(502, "c", size=9)])
    assert found == Counts(requests=6, errors=1, clients=3, failing=1)
    assert counted([]) == Counts()


@pytest.mark.parametrize(
    "everything",
    [
        of(500, times=ERRORS_MIN),
        of(502, times=ERRORS_MIN, size=0),
        [*of(500, times=90), *of(200, times=910)],
        [one for client in "abcdef" for one in of(500, client, 3)],
    ],
    ids=["every answer to the only customer", "no slot answers", "one of eleven", "each customer's"],
)
def test_a_release_that_answers_wrongly_goes(everything: Iterable[Answer]) -> None:
    assert "requests ended with 5xx, 0.1% before" in worse(QUIET, counted(everything))
    assert worse(Counts(), counted(everything)), "it needs no release before it"


@pytest.mark.parametrize(
    "harmless",
    [
        of(500, times=ERRORS_MIN - 1),
        [*of(500, times=40), *of(200, times=1000)],
        [*of(502, times=500), *of(200, times=20)],
        [*of(500, "broken", 500), *of(200, "b"), *of(200, "c"), *of(200, "d")],
    ],
    ids=["a few", "a small share", "an upstream model's 502", "one customer's broken program"],
)
def test_the_troubles_of_others_take_no_release_back(harmless: Iterable[Answer]) -> None:
    assert worse(QUIET, counted(harmless)) == ""


def test_a_release_that_is_no_worse_than_before_stays() -> None:
    now = counted([*of(500, "a", 20), *of(500, "b", 20), *of(200, "c", 60)])
    assert worse(Counts(200, 40, 9, 3), now) == ""
    assert "40% of 100 requests ended with 5xx, 10.0% before" in worse(Counts(200, 20, 9, 3), now)


@dataclass(frozen=True)
class Logging(LocalHost):
    """A machine whose Caddy wrote these lines; without any it does not answer."""

    lines: list[str] = field(default_factory=list)
    over: int = 0

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = 60.0) -> Output:
        if argv[0] == "stat":
            return Output(0, str(self.over).encode())
        if not self.lines:
            raise HostAway("Docker does not answer.")
        return Output(0, "\n".join(self.lines).encode())


async def test_each_look_adds_what_is_new_and_what_the_release_before_may_have_answered_is_left_out() -> None:
    host = Logging()
    since = Since(host, PLACE, began=100.0)
    old, new = 100.0 + SETTLE_SECONDS - 0.1, 100.0 + SETTLE_SECONDS
    host.lines.extend((logged("1", began=old, status=500), logged("2", began=new)))
    assert await since.look() == Counts(requests=1, errors=0, clients=1)
    assert await since.look() == Counts(requests=1, errors=0, clients=1), "a line that comes once more"
    host.lines.append(logged("3", began=new, status=500))
    assert await since.look() == Counts(requests=2, errors=1, clients=1, failing=1)


async def test_the_measure_is_what_was_answered_lately_and_since_the_last_change_of_releases() -> None:
    host, now = Logging(over=1000), 1000 + 2 * BEFORE_SECONDS
    host.lines.append(logged("1", began=999.0, status=500))  # of a bad release that went back
    host.lines.append(logged("2", began=1001.0, status=500))
    assert await before(host, PLACE) == Counts(requests=1, errors=1, clients=1, failing=1)
    host.lines.extend((logged("3", began=now - BEFORE_SECONDS), logged("4", began=now)))
    assert await before(host, PLACE) == Counts(requests=2, errors=0, clients=1)


async def test_a_log_that_can_not_be_read_counts_nothing_and_stops_no_release() -> None:
    assert await before(Logging(), PLACE) == Counts()
    assert await Since(Logging(), PLACE, 0.0).look() == Counts()
