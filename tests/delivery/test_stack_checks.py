"""What `wopr check` says of an installation as it runs: sound ones raise no alarm, each planted fault has its line."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from wopr.delivery.env_file import read_env
from wopr.delivery.glance import Answer, Glance, read_boxes
from wopr.delivery.hosts import LocalHost, Output
from wopr.delivery.lock import Held, Seen
from wopr.delivery.place import Place
from wopr.delivery.release import Part, Release, Snapshot, State
from wopr.delivery.stack_checks import Stack, checks
from wopr.ops.checks import Finding, Verdict, run_checks

IMAGE = "ghcr.io/wopr-network/wopr-platform@sha256:" + "0" * 64
ENV = b"WOPR_DOMAIN=wopr.example\nLOG_LEVEL=info\nAPI_HOST=127.0.0.1\nDO_API_TOKEN=x\nGPU_ADMIT=10.118.0.2/32\n"
ADDRESSES = b"3: eth1    inet 10.118.0.2/20 brd 10.118.15.255 scope global eth1\n"
COMPOSE = b"services:\n  api-green:\n    image: x\n    environment: {API_HOST: 0.0.0.0}\n"
DUMP = {"path": "/d/1.dump", "rows": 812, "tables": 31}


def container(service: str, **changes: Any) -> dict[str, Any]:
    """A container as the engine describes it."""
    labels = {"com.docker.compose.service": service, "wopr.release": "7"}
    env = [f"{name}={value}" for name, value in {**read_env(ENV).values, "API_HOST": "0.0.0.0"}.items()]
    config = {"Image": changes.get("image", IMAGE), "Labels": labels, "Env": changes.get("env", env)}
    state = {"Status": changes.get("status", "running"), "StartedAt": "2026-11-23T17:00:00Z"}
    return {
        "Name": f"/wopr-{service}",
        "Image": IMAGE,
        "RestartCount": changes.get("restarts", 0),
        "State": state,
        "Config": config,
    }


def stack(*others: dict[str, Any]) -> Stack:
    """A sound installation, with these containers in place of its own."""
    inputs = Snapshot({"env": ENV, "compose.yaml": COMPOSE, "Caddyfile": b"x"})
    state = State(active=Part(7, "green"))
    recorded = Release(7, IMAGE, "bot", inputs.config_hash, inputs.env_hash, "0007", "t", "me", verdict="good")
    boxes = {one: container(one) for one in ("caddy", "postgres", "api-green", "ui-green")}
    boxes |= {one["Name"].removeprefix("/wopr-"): one for one in others}
    answers = [Answer("api", "ok"), Answer("pages", "ok"), Answer("database", "ok")]
    seen = Glance(state, recorded, read_boxes(list(boxes.values()), state), answers, {"migration": "0007"})
    newest = Output(0, f"3600\nthere\n{json.dumps(DUMP, indent=2)}".encode())
    free, compose, addresses = Output(0, b"9000000"), Output(0, b"plugin"), Output(0, ADDRESSES)
    return Stack(seen, list(boxes.values()), inputs, newest, free, 0.2, compose, addresses)


async def judged(monkeypatch: pytest.MonkeyPatch, seen: Stack) -> dict[str, Finding]:
    async def looked(host: Any, place: Any) -> Stack:
        return seen

    monkeypatch.setattr("wopr.delivery.stack_checks.look_stack", looked)
    return {one.name: one.finding for one in await run_checks(checks(LocalHost(), Place("/nowhere")))}


async def complaints(monkeypatch: pytest.MonkeyPatch, seen: Stack) -> dict[str, Finding]:
    findings = await judged(monkeypatch, seen)
    return {name: one for name, one in findings.items() if one.verdict is not Verdict.OK}


def in_seen(**changes: Any) -> Callable[[Stack], Stack]:
    return lambda sound: replace(sound, seen=replace(sound.seen, **changes))


def in_release(**changes: Any) -> Callable[[Stack], Stack]:
    def changed(sound: Stack) -> Stack:
        assert sound.seen.serving is not None
        return replace(sound, seen=replace(sound.seen, serving=replace(sound.seen.serving, **changes)))

    return changed


def in_files(**files: bytes) -> Callable[[Stack], Stack]:
    named = {name.replace("_", "."): content for name, content in files.items()}
    return lambda sound: replace(sound, inputs=Snapshot({**sound.inputs.files, **named}))


def dumped(*lines: object) -> Callable[[Stack], Stack]:
    return lambda sound: replace(sound, dump=Output(0, "\n".join(map(str, lines)).encode()))


def moved_to(address: str) -> Output:
    return Output(0, ADDRESSES.replace(b"10.118.0.2", address.encode()))


def held(age: float) -> Seen:
    return Seen("{}", Held(3, "somebody", "deploy"), age)


PLANTED = [
    ("stack.verdict", in_release(verdict="bad", reason="it crashed"), Verdict.FAILED),
    ("stack.verdict", in_release(verdict="pending"), Verdict.WARNING),
    ("stack.release", in_release(platform=IMAGE.replace("0", "1")), Verdict.FAILED),
    ("stack.migrations", in_release(migration_head="0008"), Verdict.FAILED),
    ("stack.serving", in_seen(answers=[Answer("api", "down", "503")]), Verdict.FAILED),
    ("stack.lock", in_seen(lock=held(600)), Verdict.WARNING),
    ("stack.containers", in_seen(trouble="Docker does not answer"), Verdict.FAILED),
    ("stack.environment", in_files(env=ENV + b"RESEND_API_KEY=re_1\n"), Verdict.WARNING),
    ("stack.environment", in_files(env=ENV.replace(b"info", b"debug")), Verdict.FAILED),
    ("stack.configuration", in_files(compose_yaml=COMPOSE + b"# changed\n"), Verdict.WARNING),
    ("stack.dump", dumped(), Verdict.WARNING),
    ("stack.dump", dumped(3600 * 24 * 30, "there", json.dumps(DUMP)), Verdict.WARNING),
    ("stack.dump", dumped(3600, "gone", json.dumps(DUMP)), Verdict.FAILED),
    ("stack.disk", lambda sound: replace(sound, free=Output(0, b"100000")), Verdict.FAILED),
    ("stack.clock", lambda sound: replace(sound, clock_seconds=-300.0), Verdict.FAILED),
    ("stack.compose", lambda sound: replace(sound, compose=Output(0)), Verdict.FAILED),
    ("stack.admission", lambda sound: replace(sound, addresses=moved_to("10.118.0.7")), Verdict.FAILED),
]


async def test_a_sound_installation_raises_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await complaints(monkeypatch, stack()) == {}
    assert await complaints(monkeypatch, in_seen(lock=held(1))(stack())) == {}


@pytest.mark.parametrize(("check", "plant", "verdict"), PLANTED)
async def test_a_planted_fault_is_named_once_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, check: str, plant: Callable[[Stack], Stack], verdict: Verdict
) -> None:
    found = await complaints(monkeypatch, plant(stack()))
    assert list(found) == [check]
    assert found[check].verdict is verdict
    assert found[check].evidence
    assert found[check].remedy


@pytest.mark.parametrize(
    ("check", "other"),
    [
        ("stack.containers", container("ui-green", status="exited")),
        ("stack.restarts", container("caddy", restarts=40)),
        ("stack.release", container("api-green", image="ghcr.io/wopr-network/wopr-platform:latest")),
        ("stack.environment", container("api-green", env=["LOG_LEVEL=warning", "API_HOST=0.0.0.0"])),
    ],
)
async def test_a_container_that_is_not_as_it_should_be_is_named(
    monkeypatch: pytest.MonkeyPatch, check: str, other: dict[str, Any]
) -> None:
    found = await complaints(monkeypatch, stack(other))
    assert list(found) == [check]
    assert found[check].verdict is Verdict.FAILED


async def test_who_rents_no_nodes_or_has_no_private_network_hears_nothing_of_admission(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = ENV.replace(b"DO_API_TOKEN=x\n", b"")
    renting_none = in_files(env=plain)(replace(stack(), addresses=moved_to("10.118.0.7")))
    assert (await judged(monkeypatch, renting_none))["stack.admission"].verdict is Verdict.SKIPPED
    untold = replace(stack(), addresses=Output(0))
    assert (await judged(monkeypatch, untold))["stack.admission"].verdict is Verdict.SKIPPED


async def test_an_address_that_nodes_do_not_admit_is_told_with_the_line_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved = replace(stack(), addresses=moved_to("10.118.0.7"))
    found = (await judged(monkeypatch, moved))["stack.admission"]
    assert "10.118.0.7" in found.evidence
    assert found.remedy.startswith("GPU_ADMIT=10.118.0.7/32 in .env")
    unsaid = in_files(env=ENV.replace(b"GPU_ADMIT=10.118.0.2/32\n", b""))(moved)
    assert (await judged(monkeypatch, unsaid))["stack.admission"].verdict is Verdict.OK, "the default admits it"


async def test_where_nothing_was_released_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = await judged(monkeypatch, in_seen(state=State())(stack()))
    assert {one.verdict for one in findings.values()} == {Verdict.SKIPPED}


@pytest.mark.parametrize(
    ("runs", "wanted"), [("registry.example/bot", Verdict.OK), ("other.example/bot", Verdict.FAILED)]
)
async def test_an_image_of_bots_that_a_release_named_by_digest_is_the_one_that_was_wanted_by_tag(
    monkeypatch: pytest.MonkeyPatch, runs: str, wanted: Verdict
) -> None:
    variables = ["LOG_LEVEL=info", "API_HOST=0.0.0.0", f"BOT_IMAGE={runs}@sha256:{'1' * 64}"]
    sound = stack(container("api-green", env=variables))
    files = {**sound.inputs.files, "env": ENV + b"BOT_IMAGE=registry.example/bot:first\n"}
    inputs = Snapshot(files)
    released = in_release(env_hash=inputs.env_hash)(replace(sound, inputs=inputs))
    assert (await judged(monkeypatch, released))["stack.environment"].verdict is wanted
