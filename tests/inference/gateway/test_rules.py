"""The pure rules of the gateway: routing, limits, credit, audio and the log."""

import errno
import os
import struct
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from wopr.billing.prices import load_prices
from wopr.billing.usage import UsageRecord
from wopr.core.clock import SystemClock
from wopr.core.errors import PaymentRequired, TooManyRequests
from wopr.core.ids import BotId, KeyId, NodeId, TenantId, new_id
from wopr.core.money import Nanos
from wopr.inference import routing
from wopr.inference.gateway import audio, credit, lines, wal
from wopr.inference.gateway.catalog import Catalog, UnknownModel
from wopr.inference.gateway.credit import Purse, Used
from wopr.inference.gateway.errors import BadParameter
from wopr.inference.gateway.limits import Limiter
from wopr.inference.nodes import Backend
from wopr.inference.routing import Target


def target(name: str, service: str = "llama", models: tuple[str, ...] = ()) -> Target:
    return Target(Backend(NodeId(name), service, f"http://{name}:1", None, True), frozenset(models))


# --- routing


def test_the_least_busy_backend_is_chosen_when_nothing_binds_the_request() -> None:
    first, second = target("a"), target("b")
    first.running = 2
    assert routing.choose([first, second], 0.0, None) is second


def test_the_same_beginning_meets_the_same_backend_until_it_is_too_busy() -> None:
    targets = [target(f"n{number}") for number in range(4)]
    affinity = routing.affinity_of("m", b"once upon a time")
    chosen = routing.choose(targets, 0.0, affinity)
    assert chosen is not None
    assert routing.choose(list(reversed(targets)), 0.0, affinity) is chosen
    for _ in range(3):
        routing.begin(chosen)
    other = routing.choose(targets, 0.0, affinity)
    assert other is not chosen


def test_different_beginnings_spread_over_the_backends() -> None:
    targets = [target(f"n{number}") for number in range(4)]
    chosen = [routing.choose(targets, 0.0, routing.affinity_of("m", b"%d" % number)) for number in range(400)]
    assert all(60 <= sum(each is one for each in chosen) <= 140 for one in targets)


def test_a_backend_that_fails_is_left_out_for_a_growing_while_and_then_tried_once() -> None:
    bad, good = target("a"), target("b")
    assert routing.failed(bad, 10.0) == 0.5
    assert routing.choose([bad, good], 10.1, None) is good
    good.running = 5
    assert routing.choose([bad, good], 10.6, None) is bad
    routing.begin(bad)
    assert routing.choose([bad, good], 10.6, None) is good
    routing.end(bad)
    assert routing.failed(bad, 11.0) == 1.0
    assert routing.choose([bad], 11.5, None) is None
    assert routing.choose_any([bad], ()) is bad
    routing.succeeded(bad)
    assert routing.choose([bad, good], 11.5, None) is bad
    assert [routing.failed(bad, 0.0) for _ in range(20)][-1] == routing.EJECTED_SECONDS_MAX


def test_a_backend_that_was_tried_is_not_chosen_again() -> None:
    first, second = target("a"), target("b")
    assert routing.choose([first, second], 0.0, None, [first]) is second
    assert routing.choose([first], 0.0, None, [first]) is None


# --- catalog


def test_a_model_is_found_by_its_name_and_its_aliases_whatever_the_backend_calls_it() -> None:
    catalog = Catalog(load_prices(), None)
    one, two = target("a", "qwen", ("minilm",)), target("b", "qwen", ("text-embedding-3-small",))
    catalog.targets = [one, two]
    catalog.index()
    for asked in ("minilm", "text-embedding-3-small"):
        assert set(catalog.targets_of("qwen", asked)) == {one, two}
        assert catalog.served_name(one, asked) == "minilm"
        assert catalog.served_name(two, asked) == "text-embedding-3-small"
        assert catalog.price("qwen", asked).name == "minilm"
    assert catalog.targets_of("llama", "minilm") == ()
    with pytest.raises(UnknownModel):
        catalog.price("qwen", "nothing")
    with pytest.raises(BadParameter):
        catalog.price("llama", "minilm")


def test_a_model_whose_backends_are_all_away_is_still_known() -> None:
    catalog = Catalog(load_prices(), None)
    catalog.targets = [target("a", "llama", ("some-gguf",))]
    catalog.index()
    catalog.replace([])
    catalog.index()
    assert catalog.targets_of("llama", "some-gguf") == ()
    assert catalog.price("llama", "some-gguf").kind == "chat"


# --- limits


def enter(limiter: Limiter, tenant: UUID, key: UUID, now: float) -> Any:
    buckets = limiter.buckets(tenant, key, now)
    limiter.enter(buckets)
    return buckets


def test_a_minutes_worth_may_come_at_once_then_the_rate_holds() -> None:
    limiter, tenant, key = Limiter(60, 100), uuid4(), uuid4()
    for _ in range(60):
        limiter.leave(enter(limiter, tenant, key, 0.0))
    with pytest.raises(TooManyRequests) as caught:
        enter(limiter, tenant, key, 0.5)
    assert caught.value.retry_after_seconds == pytest.approx(0.5)
    buckets = enter(limiter, tenant, key, 1.0)
    assert [value for _, value in limiter.headers(buckets)] == [b"60", b"0", b"60000ms"]


def test_running_requests_are_limited_too() -> None:
    limiter, tenant = Limiter(600, 2), uuid4()
    buckets = enter(limiter, tenant, uuid4(), 0.0)
    enter(limiter, tenant, uuid4(), 0.0)
    with pytest.raises(TooManyRequests) as caught:
        enter(limiter, tenant, uuid4(), 0.0)
    assert caught.value.code == "concurrency_limit_exceeded"
    limiter.leave(buckets)
    enter(limiter, tenant, uuid4(), 0.0)


def test_what_one_process_lets_in_counts_in_the_others() -> None:
    here, there, tenant, key = Limiter(60, 100), Limiter(60, 100), uuid4(), uuid4()
    for _ in range(60):
        here.leave(enter(here, tenant, key, 0.0))
    for payload in here.told():
        there.hear(payload, 0.0)
        here.hear(payload, 0.0)
    assert here.told() == []
    with pytest.raises(TooManyRequests):
        enter(there, tenant, key, 0.0)
    there.hear("nonsense", 0.0)
    there.hear('["x", {"y": 1}]', 0.0)


# --- credit


def record(cost: int = 10) -> UsageRecord:
    return UsageRecord(
        request_id=new_id(),
        tenant_id=TenantId(uuid4()),
        key_id=KeyId(uuid4()),
        bot_id=BotId(uuid4()),
        turn_id=None,
        kind="chat",
        model='odd "name"',
        node_id=None,
        prompt_tokens=1,
        completion_tokens=2,
        units=3,
        cost=Nanos(cost),
        upstream_cost=Nanos(1),
        status="ok",
        started_at=SystemClock().now(),
        duration_ms=4,
        first_token_ms=None,
    )


def purse(**values: int | float) -> Purse:
    made = Purse(TenantId(uuid4()))
    for name, value in values.items():
        setattr(made, name, value)
    return made


def test_credit_is_never_counted_twice() -> None:
    mine = purse(amount=100, expires=10.0, held=30, owed=20)
    assert mine.free(0.0) == 50
    assert not mine.take(51, 0.0)
    assert mine.take(50, 0.0)
    assert mine.free(0.0) == 0
    assert mine.take(0, 0.0)


def test_a_lease_is_not_used_when_it_has_expired() -> None:
    assert purse(amount=100, expires=10.0).free(10.0) == 0


def test_a_roll_asks_for_what_is_held_and_never_for_less_than_what_is_left() -> None:
    mine = purse(amount=10**12, expires=100.0, held=5, owed=10, rolled_at=0.0)
    mine.records = [Used(record(10), None)]
    plan = credit.plan_roll(mine, 50.0)
    assert plan is not None
    assert plan.want == 10**12 - 10


def test_an_idle_lease_goes_back_and_a_held_one_does_not() -> None:
    mine = purse(amount=100, expires=100.0, used_at=0.0)
    mine.lease_id = uuid4()
    assert credit.plan_roll(mine, 1.0) is None or credit.plan_roll(mine, 1.0).want > 0  # type: ignore[union-attr]
    idle = credit.plan_roll(mine, credit.IDLE_SECONDS)
    assert idle is not None
    assert idle.want == 0
    mine.running = 1
    kept = credit.plan_roll(mine, credit.IDLE_SECONDS)
    assert kept is None or kept.want > 0


def test_empty_is_402_and_held_is_429() -> None:
    empty = credit.refusal(purse(total=0), 6)
    assert isinstance(empty, PaymentRequired)
    assert empty.message == "Your credit is used up."
    held = credit.refusal(purse(total=6), 6)
    assert isinstance(held, TooManyRequests)
    assert held.retry_after_seconds is not None


def test_too_little_credit_for_one_request_is_402_and_says_how_much_and_what_to_do() -> None:
    short = credit.refusal(purse(total=400_000), 1_644_800)
    assert isinstance(short, PaymentRequired)
    assert short.message == "This request may cost up to $0.0017, and $0.0004 of credit is left."
    for way in ("max_tokens", "stream", "Add credit"):
        assert way in short.remedy


# --- audio


def test_a_wav_lasts_as_long_as_its_header_and_its_bytes_say() -> None:
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    whole = b"RIFF\0\0\0\0WAVELIST\x03\0\0\0abc\0" + fmt + b"data" + struct.pack("<I", 16000) + bytes(16000)
    assert audio.wav_seconds(whole) == 1.0
    assert audio.wav_seconds(whole[:-8000]) == 0.5
    assert audio.wav_seconds(b"ID3 something else") is None
    assert audio.wav_seconds(b"RIFF\0\0\0\0WAVE") is None
    assert audio.seconds_at_most(bytes(40_000)) == 10


def test_a_form_is_read_and_edited_in_place() -> None:
    raw = (
        b'preamble\r\n--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ntts\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        b"\r\n--y\x00binary\r\n--x--\r\n"
    )
    form = audio.parse_form(b'multipart/form-data; boundary="x"', raw)
    assert form.text("model") == "tts"
    assert form.file("file") == b"\r\n--y\x00binary"
    assert form.with_text("model", "other") == raw.replace(b"\r\n\r\ntts\r\n", b"\r\n\r\nother\r\n")


@pytest.mark.parametrize("raw", [b"", b"--x", b"--x\r\n", b"--x\r\nname\r\n\r\nvalue", b"--y--", b"--x\r\n\r\n\r\n--"])
def test_a_broken_form_is_refused(raw: bytes) -> None:
    with pytest.raises(BadParameter):
        audio.parse_form(b"multipart/form-data; boundary=x", raw)


# --- the log


def test_a_record_comes_back_from_its_line() -> None:
    mine = record()
    assert lines.unpack(lines.pack_usage(mine)) == mine
    older = lines.pack_usage(mine).replace(b'["u1"', b'["u"', 1)
    assert lines.unpack(older) == mine


def test_a_field_that_is_added_to_the_record_needs_a_version_of_the_line() -> None:
    assert tuple(UsageRecord.__dataclass_fields__) == lines.FIELDS


@pytest.mark.parametrize(
    "line",
    [b"", b"7", b"[]", b'["u9"]', b'["u1"]', b'["l","x","y"]', b"{", b'["u1"' + b",1" * 17 + b"]", b"[[1]]"]
    + [lines.pack_usage(record()).replace(old, new) for old, new in [(b'"chat"', b'"song"'), (b",10,", b",-1,")]],
)
def test_a_line_that_can_not_be_read_is_a_value_error_and_nothing_else(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        lines.unpack(line)


def test_a_torn_end_is_ignored_and_damage_in_the_middle_skips_one_line(tmp_path: Path) -> None:
    log = wal.Wal(tmp_path)
    log.open()
    for number in range(3):
        log.append(b'["t",%d]' % number)
    [path] = tmp_path.glob("*.wal")
    content = path.read_bytes()
    for cut in range(len(content)):
        whole_lines = content[:cut].count(b"\n")
        assert len(list(wal.read_lines(content[:cut]))) == whole_lines
    damaged = content.replace(b'["t",1]', b'["t",9]')
    assert list(wal.read_lines(damaged)) == [b'["t",0]', b'["t",2]']
    log.close()


def test_a_record_that_the_disk_took_half_of_is_cut_off_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows would stand in the same line: acknowledged, and lost with it."""
    log, really = wal.Wal(tmp_path), os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(descriptor, data[:9])

    log.open()
    log.append(b'["t",0]')
    log.set_aside([b'["b",0]'])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for write in (log.append, log.note, lambda line: log.set_aside([line])):
            with pytest.raises(OSError, match="No space"):
                write(b'["t",1]')
    log.append(b'["t",2]')
    log.set_aside([b'["b",2]'])
    log.close()
    [left] = wal.remains(tmp_path)
    assert (left.lines, left.damaged) == ([b'["t",0]', b'["t",2]'], 0)
    left.leave()
    [bad] = tmp_path.glob("*.bad")
    assert list(wal.read_lines(bad.read_bytes())) == [b'["b",0]', b'["b",2]']


def test_a_living_process_keeps_its_files_and_a_dead_ones_are_found(tmp_path: Path) -> None:
    alive, dead = wal.Wal(tmp_path), wal.Wal(tmp_path)
    alive.open()
    dead.open()
    alive.append(b'["a"]')
    dead.append(b'["d"]')
    dead.close()
    [left] = list(wal.remains(tmp_path))
    assert left.lines == [b'["d"]']
    assert list(wal.remains(tmp_path)) == []  # we hold it now
    left.remove()
    assert len(list(tmp_path.iterdir())) == 1
    alive.close()


def test_a_file_goes_when_its_last_record_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "ROTATE_BYTES", 100)
    log = wal.Wal(tmp_path, lambda: [b'["l"]'])
    log.open()
    segments = [log.append(b'["t","%b"]' % (b"x" * 60)) for _ in range(5)]
    assert len(list(tmp_path.iterdir())) > 1
    assert log.size() == sum(path.stat().st_size for path in tmp_path.iterdir())
    for segment in segments:
        log.settled(segment)
    [path] = tmp_path.iterdir()
    assert path.name.startswith(f"{os.getpid()}-")
    log.close()
    assert list(tmp_path.iterdir()) == []
