"""A glance at an installation: what is missing, broken or down is told, and a question without an answer is a line."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wopr.delivery.errors import HostFailed
from wopr.delivery.glance import Answer, Glance, glance, read_boxes, short, slots
from wopr.delivery.hosts import Output
from wopr.delivery.place import Place
from wopr.delivery.release import Part, State
from wopr.delivery.teardown import Found, listing

SERVING = State(active=Part(7, "green"))


def inspected(service: str, status: str = "running", health: str = "healthy", restarts: int = 0) -> dict[str, Any]:
    """A container as `docker inspect` describes it."""
    return {
        "Name": f"/wopr-{service}",
        "Image": "sha256:0123456789abcdef0123456789",
        "RestartCount": restarts,
        "State": {"Status": status, "Health": {"Status": health}, "StartedAt": "2026-11-23T17:00:00.123456789Z"},
        "Config": {"Image": "caddy:2-alpine", "Labels": {"com.docker.compose.service": service, "wopr.release": "7"}},
    }


def whole() -> list[dict[str, Any]]:
    return [inspected(service) for service in ("caddy", "postgres", "api-green", "ui-green")]


def test_a_container_that_should_be_there_and_is_not_is_a_line_that_says_so() -> None:
    boxes = read_boxes(whole()[:-1], SERVING)
    assert {box.service: box.state for box in boxes} == {
        "caddy": "ok", "postgres": "ok", "api-green": "ok", "ui-green": "down",
    }  # fmt: skip
    caddy = next(box for box in boxes if box.service == "caddy")
    assert caddy.image == "caddy:2-alpine 0123456789ab"
    assert str(caddy.since) == "2026-11-23 17:00:00+00:00"


def test_unhealthy_is_degraded_and_stopped_is_down() -> None:
    boxes = read_boxes([inspected("caddy", health="unhealthy"), inspected("postgres", "exited", "none")], State())
    assert [(box.state, box.status) for box in boxes] == [("degraded", "running, unhealthy"), ("down", "exited")]
    assert boxes[1].since is None


def test_what_is_kept_for_a_rollback_is_no_trouble() -> None:
    kept = [inspected(service, "exited") for service in ("api-blue", "ui-blue")]
    boxes = read_boxes([*whole(), *kept], SERVING)
    assert {box.status for box in boxes if box.service.endswith("blue")} == {"kept for a rollback"}
    assert {box.state for box in boxes} == {"ok"}
    coming = replace(SERVING, candidate=Part(8, "blue"))
    assert {box.state for box in read_boxes(kept, coming) if box.service.endswith("blue")} == {"down"}


def test_the_verdict_is_down_when_customers_cant_use_it_and_degraded_when_something_is_wrong() -> None:
    boxes, fine = read_boxes(whole(), SERVING), [Answer("api", "ok")]
    assert Glance(SERVING, None, boxes, fine).verdict == "ok"
    assert Glance(SERVING, None, boxes, [Answer("api", "down")]).verdict == "down"
    assert Glance(State(), None, [], fine).verdict == "down"
    node = {"id": "g", "services": {"llama": False}}
    assert Glance(SERVING, None, boxes, fine, nodes=[node]).verdict == "degraded"
    assert Glance(SERVING, None, read_boxes(whole()[1:], SERVING), fine).verdict == "degraded"


def test_each_slot_says_what_it_is_for() -> None:
    state = State(active=Part(7, "green"), candidate=Part(8, "blue"))
    assert slots(state) == {"blue": ("coming in", 8), "green": ("active", 7)}
    assert slots(State()) == {"blue": ("idle", None), "green": ("idle", None)}
    assert short(f"ghcr.io/wopr-network/wopr-platform@sha256:{'ab' * 32}") == "wopr-platform@abababababab"


class Half:
    """A host whose database does not answer and whose engine has one container."""

    async def run(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = 60) -> Output:
        if "psql" in argv:
            raise HostFailed("it took too long")
        return Output(0, json.dumps(whole()[:1]).encode() if "observe" in argv else b"")

    async def read(self, path: str) -> bytes | None:
        return SERVING.data() if path.endswith("state.json") else None

    async def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        raise AssertionError("looking changes nothing")

    def describe(self) -> str:
        return "half"

    async def close(self) -> None:
        return None


async def test_a_question_without_an_answer_is_a_line_and_not_an_error() -> None:
    seen = await glance(Half(), Place("/x"))
    told = {answer.name: (answer.state, answer.detail) for answer in seen.answers}
    assert told["database"] == ("down", "it took too long")
    assert told["api"][0] == "ok"
    assert seen.verdict == "down"
    assert {box.service: box.state for box in seen.boxes}["postgres"] == "down"


def test_a_teardown_finds_things_by_their_labels_and_knows_when_there_is_nothing_to_do() -> None:
    assert listing("volume", "a=b") == ("docker", "volume", "ls", "--filter", "label=a=b", "--format", "{{.Name}}")
    assert listing("container", "a=b")[:3] == ("docker", "ps", "-a")
    left = Found(volumes=["wopr_postgres-data"])
    assert not left.anything(wipe=False)
    assert left.anything(wipe=True)
