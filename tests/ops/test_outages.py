"""What stays down opens one incident by itself, and what is well again resolves it."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from wopr.core.db import Database
from wopr.core.ids import NodeId
from wopr.inference.nodes import Node
from wopr.inference.outages import nodes_seen, services_down, watched_services
from wopr.ops.incidents import Severity, all_incidents, open_incident, open_incidents
from wopr.ops.journal import Journal
from wopr.ops.loops import failing_loops
from wopr.ops.outages import Watch, Watched

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
AFTER = 120.0


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def thing(down: bool, since: datetime | None = None, *, covered: bool = False) -> Watched:
    return Watched("service:ui", "The UI is down", Severity.SEV2, down, since, "refused", covered=covered)


def watch(home: Path) -> Watch:
    return Watch(Journal(home), "watchdog", AFTER)


def test_nothing_opens_before_the_time_and_one_incident_after_it(tmp_path: Path) -> None:
    watcher = watch(tmp_path)
    assert watcher.settle([thing(True)], at(0))["opened"] == 0
    assert watcher.settle([thing(True)], at(119))["opened"] == 0
    assert watcher.settle([thing(True)], at(120))["opened"] == 1
    assert watcher.settle([thing(True)], at(500))["opened"] == 0
    (incident,) = open_incidents(Journal(tmp_path))
    assert incident.title == "The UI is down"
    assert incident.severity == "SEV2"
    assert incident.began_at == "2026-11-23T12:00:00.000+00:00"
    assert incident.detected_at == "2026-11-23T12:02:00.000+00:00"


def test_a_short_outage_is_forgotten(tmp_path: Path) -> None:
    watcher = watch(tmp_path)
    for seconds, down in ((0, True), (100, False), (110, True), (200, True)):
        assert watcher.settle([thing(down)], at(seconds))["opened"] == 0
    assert open_incidents(Journal(tmp_path)) == []


def test_it_resolves_by_itself_and_a_later_outage_is_another_incident(tmp_path: Path) -> None:
    watcher = watch(tmp_path)
    watcher.settle([thing(True, at(-300))], at(0))
    assert watcher.settle([thing(False)], at(10))["resolved"] == 1
    watcher.settle([thing(True, at(20))], at(200))
    assert [incident.open for incident in all_incidents(Journal(tmp_path))] == [False, True]


def test_another_process_that_takes_over_resolves_what_the_first_opened(tmp_path: Path) -> None:
    watch(tmp_path).settle([thing(True, at(-300))], at(0))
    assert watch(tmp_path).settle([thing(True, at(-300))], at(5))["opened"] == 0
    assert watch(tmp_path).settle([thing(False)], at(10))["resolved"] == 1


def test_what_is_there_no_more_is_over(tmp_path: Path) -> None:
    watch(tmp_path).settle([thing(True, at(-300))], at(0))
    assert watch(tmp_path).settle([], at(10))["resolved"] == 1


def test_incidents_of_people_and_of_other_watchers_stay_open(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    open_incident(journal, "By hand", "SEV3", "operator", {"key": "service:api"})
    open_incident(journal, "By status", "SEV3", "wopr status", {"key": "container:x", "watch": "status"})
    assert watch(tmp_path).settle([], at(0))["resolved"] == 0
    assert len(open_incidents(journal)) == 2


def test_a_part_of_something_larger_opens_none_and_keeps_its_own_open(tmp_path: Path) -> None:
    watcher = watch(tmp_path)
    assert watcher.settle([thing(True, at(-300), covered=True)], at(0))["opened"] == 0
    watcher.settle([thing(True, at(-300))], at(1))
    assert watcher.settle([thing(True, at(-300), covered=True)], at(2))["resolved"] == 0


def node(name: str, health: Mapping[str, bool], failing_since: int | None = None) -> Node:
    state = {"llama": {"failures": 3, "failing_since": failing_since, "error": "refused"}} if failing_since else {}
    ports = {service: 8080 + number for number, service in enumerate(health)}
    status = "active" if all(health.values()) else "degraded"
    return Node(NodeId(name), "h", ports=ports, service_health=health, status=status, probe_state=state)


def test_one_node_of_two_is_a_small_incident_and_both_are_one_large() -> None:
    one = watched_services([node("a", {"llama": False}, 100), node("b", {"llama": True})])
    assert [(w.key, w.down, w.covered) for w in one] == [
        ("service:llama", False, False),
        ("node:a:llama", True, False),
        ("node:b:llama", False, False),
    ]
    both = watched_services([node("a", {"llama": False}, 100), node("b", {"llama": False}, 160)])
    assert [(w.key, w.down, w.covered) for w in both] == [
        ("service:llama", True, False),
        ("node:a:llama", True, True),
        ("node:b:llama", True, True),
    ]
    assert both[0].since == datetime.fromtimestamp(160, UTC)
    assert both[0].severity is Severity.SEV2


def test_a_node_that_is_being_drained_is_not_looked_at() -> None:
    drained = Node(NodeId("a"), "h", ports={"llama": 1}, service_health={"llama": False}, status="draining")
    assert watched_services([drained]) == []


async def test_the_database_says_which_services_and_loops_are_down(db: Database) -> None:
    async with db.begin() as session:
        await session.execute(
            text(
                "INSERT INTO gpu_nodes (id, host, region, size, status, provision_stage, service_health,"
                " monthly_cost_cents) VALUES ('n1', 'h', 'local', 'cpu', 'degraded', 'done',"
                """ '{"llama": true, "whisper": false}', 0)"""
            )
        )
        await session.execute(text("INSERT INTO loop_leases (name, last_error) VALUES ('mail', 'no route')"))
        await session.execute(text("INSERT INTO loop_leases (name) VALUES ('bills')"))
    async with db.begin() as session:
        down = {w.key for w in await services_down(session) if w.down and not w.covered}
        loops = {w.key: w.down for w in await failing_loops(session)}
    assert "service:whisper" in down
    assert "service:llama" not in down
    assert loops == {"loop:mail": True, "loop:bills": False}


async def test_the_logbook_tells_only_of_services_that_were_looked_at(db: Database) -> None:
    async with db.begin() as session:
        await session.execute(
            text(
                "INSERT INTO gpu_nodes (id, host, region, size, status, provision_stage, service_health,"
                " monthly_cost_cents, probe_state) VALUES ('n1', 'h', 'local', 'cpu', 'active', 'done',"
                """ '{"llama": true, "whisper": false, "qwen": false}', 0, '{"whisper": {"failures": 3}}')"""
            )
        )
    async with db.begin() as session:
        (row,) = await nodes_seen(session)
    assert row["services"] == {"llama": True, "whisper": False}
