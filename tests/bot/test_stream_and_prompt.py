"""The pure parts: the stream parser, the prompt's budgets, the retry plan, the contract's payloads."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wopr.bot import gateway_errors, prompt
from wopr.bot.contract import ContractError, ErrorBody, TurnRequest, TurnState, TurnView, Usage, turn_audio_path
from wopr.bot.conversations import Exchange
from wopr.bot.gateway_errors import GatewayError
from wopr.bot.patience import Patience
from wopr.bot.prompt import Identity
from wopr.bot.recall import Recalled
from wopr.bot.retelling import Retelling
from wopr.bot.sse import LINE_BYTES_MAX, ServerEvent, SseParser, StreamTooLarge
from wopr.bot.turns import title_of

STREAM = (
    "\ufeff: a comment\n\n"
    'data: {"text":"grüß 日本 🎲"}\n\n'
    "event: named\nid: 7\nretry: 10\ndata: first\ndata:second\ndata\n\n"
    "\n"
    "event: without data\n\n"
    "unknown: field\ndata:  two spaces\n\n"
    "data: [DONE]\n\n"
)
EVENTS = [
    ServerEvent("message", '{"text":"grüß 日本 🎲"}'),
    ServerEvent("named", "first\nsecond\n"),
    ServerEvent("message", " two spaces"),
    ServerEvent("message", "[DONE]"),
]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_the_parser_reads_the_same_from_a_stream_cut_at_any_byte(ending: str) -> None:
    whole = STREAM.replace("\n", ending).encode()
    for cut in range(len(whole) + 1):
        parser = SseParser()
        assert parser.feed(whole[:cut]) + parser.feed(b"") + parser.feed(whole[cut:]) == EVENTS, cut
    parser = SseParser()
    assert [event for byte in whole for event in parser.feed(bytes([byte]))] == EVENTS


def test_mixed_line_endings_and_an_unfinished_event() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\r\n\rdata: b\n\r\ndata: c\n") == [
        ServerEvent("message", "a"),
        ServerEvent("message", "b"),
    ]
    assert parser.feed(b"\n") == [ServerEvent("message", "c")]


def test_the_parser_holds_only_so_much() -> None:
    with pytest.raises(StreamTooLarge):
        SseParser().feed(b"data: " + b"x" * LINE_BYTES_MAX)
    with pytest.raises(StreamTooLarge):
        SseParser().feed((b"data: " + b"x" * 900_000 + b"\n") * 10)


def test_the_window_drops_the_oldest_exchanges_whole() -> None:
    history = [Exchange(number, "q" * 350, "a" * 350) for number in range(100)]
    kept = prompt.window(history, "question", budget_tokens=1_000)
    assert kept == history[-4:]
    assert prompt.window(history, "x" * 10_000, budget_tokens=1_000) == []
    assert prompt.window(history[:2], "question") == history[:2]
    assert prompt.estimate_tokens("日本語") > prompt.estimate_tokens("abc")


def test_the_system_prompt_names_everything_the_owner_wrote_and_marks_what_is_recalled() -> None:
    identity = Identity(
        "Joshua", "Be calm.", "", {"SOUL.md": "Likes games.", "MEMORY.md": "x" * 20_000, "AGENTS.md": " "}
    )
    plain = prompt.system_prompt(identity, (), "2026-01-31")
    assert plain.startswith("You are Joshua.\n\nBe calm.\n\n# Your character (SOUL.md)\nLikes games.")
    assert "AGENTS.md" not in plain
    assert "Recalled" not in plain
    assert len(plain) < 2 * prompt.FILE_CHARS_MAX
    recalled = [Recalled(Exchange(1, "I like\ntea " + "y" * 900, "Noted."), "2026-01-02T03:04:05Z", 0.9)]
    told = prompt.system_prompt(identity, recalled, "2026-01-31")
    assert "User (2026-01-02): I like tea" in told
    assert "Assistant (2026-01-02): Noted." in told
    assert "not instructions" in told


def test_retries_are_few_and_only_where_they_can_help() -> None:
    failed = gateway_errors.from_answer(500, {}, b"")
    assert _pauses(failed, 8, answering=True) == [0.2, 0.5, 1.0, 2.0, 2.0, None, None, None]
    busy = gateway_errors.from_answer(429, {"Retry-After": "2.5"}, b"")
    assert _pauses(busy, 5) == [2.5, 2.5, 2.5, None, None]
    for odd in ("", "Wed, 21 Oct 2015 07:28:00 GMT", "nan", "inf", "-1"):
        assert _pauses(gateway_errors.from_answer(429, {"Retry-After": odd}, b""), 1) == [1.0]
    for status in (400, 401, 402, 403, 404, 422):
        assert _pauses(gateway_errors.from_answer(status, {}, b"{"), 1, answering=True) == [None]


def test_an_answer_waits_a_minute_for_a_gateway_that_is_away_and_everything_else_only_for_one_that_is_absent() -> None:
    absent, hung_up = gateway_errors.unreachable(sent=False), gateway_errors.unreachable(sent=True)
    for error in (absent, hung_up, *(gateway_errors.from_answer(status, {}, b"") for status in (502, 503))):
        pauses = _pauses(error, 40, answering=True)
        waited = [pause for pause in pauses if pause is not None]
        assert waited[:5] == [0.2, 0.5, 1.0, 2.0, 2.0]
        assert 57 < sum(waited) <= 60
        assert pauses[len(waited) :] == [None] * (40 - len(waited))
        assert _pauses(error, 40) == (pauses if error is absent else [0.2, 0.5, 1.0, 2.0, 2.0] + [None] * 35)


def test_an_answer_that_breaks_off_is_asked_for_again_three_times_and_nothing_else_is() -> None:
    broken = gateway_errors.stream_broken()
    assert _pauses(broken, 5) == [None] * 5
    now = [0.0]
    patience = Patience(lambda: now[0], answering=True)
    for _ in range(3):
        now[0] += 300.0
        patience.heard()
        assert patience.pause(broken) == 0.2
        assert patience.pause(gateway_errors.unreachable(sent=False)) == 0.5
        now[0] += 59.0
        assert patience.pause(gateway_errors.unreachable(sent=False)) == 1.0
    patience.heard()
    assert patience.pause(broken) is None
    assert _pauses(gateway_errors.in_stream({"error": {"code": "timeout"}}), 1, answering=True) == [None]
    assert _pauses(gateway_errors.in_stream({"error": {"code": "restarting"}}), 1, answering=True) == [0.2]


class _Listener:
    """What a page shows, which clears it when it is told to."""

    def __init__(self) -> None:
        self.shown = ""
        self.restarts = 0
        self.told = Retelling(self._add, self._clear)

    def _add(self, text: str) -> None:
        assert text
        self.shown += text

    def _clear(self) -> None:
        self.shown = ""
        self.restarts += 1


@given(st.lists(st.lists(st.text("ab", max_size=3), max_size=6), max_size=4), st.lists(st.text("ab", max_size=3)))
def test_whatever_breaks_off_before_it_the_whole_answer_is_shown_once(
    broken: list[list[str]], whole: list[str]
) -> None:
    listener = _Listener()
    for pieces in broken:
        listener.told.begin()
        for piece in pieces:
            listener.told.hear(piece)
            assert listener.shown == listener.told.text
    listener.told.begin()
    for piece in whole:
        listener.told.hear(piece)
    listener.told.end()
    assert listener.shown == listener.told.text == "".join(whole)


@given(st.text("ab🎲", max_size=20), st.lists(st.integers(0, 20), max_size=5), st.data())
def test_a_model_that_says_the_same_again_is_never_restarted(answer: str, cuts: list[int], data: st.DataObject) -> None:
    listener = _Listener()
    for cut in [*cuts, len(answer)]:
        listener.told.begin()
        said = answer[:cut]
        while said:
            length = data.draw(st.integers(1, len(said)))
            listener.told.hear(said[:length])
            said = said[length:]
            assert answer.startswith(listener.shown)
    listener.told.end()
    assert (listener.shown, listener.restarts) == (answer, 0)


def _pauses(error: GatewayError, count: int, *, answering: bool = False) -> list[float | None]:
    """The pauses after one failure after another, each of which takes no time itself."""
    now = [0.0]
    patience, pauses = Patience(lambda: now[0], answering=answering), []
    for _ in range(count):
        pauses.append(patience.pause(error))
        now[0] += pauses[-1] or 0.0
    return pauses


@pytest.mark.parametrize(
    ("error", "exceeded"),
    [
        ({"code": "context_length_exceeded"}, True),
        ({"type": "exceed_context_size_error"}, True),
        ({"message": "maximum context window is 2048"}, True),
        ({"message": "unknown model"}, False),
    ],
)
def test_a_context_that_is_too_long_is_recognized(error: dict[str, str], exceeded: bool) -> None:
    answer = gateway_errors.from_answer(400, {}, json.dumps({"error": error}).encode())
    assert answer.context_exceeded is exceeded


def test_titles_are_short_and_cut_at_a_word() -> None:
    assert title_of("  Hello   there \nsecond line") == "Hello there"
    assert title_of("") == ""
    assert len(title_of("word " * 40)) <= 60
    assert title_of("x" * 100).endswith("…")


def test_payloads_survive_the_wire() -> None:
    request = TurnRequest("t-1", "c_1", text="hello", speak=True)
    assert TurnRequest.from_json(json.loads(json.dumps(request.to_json()))) == request
    view = TurnView(
        turn_id="t",
        conversation_id="c",
        state=TurnState.FAILED,
        user_text="q",
        text="a",
        error=ErrorBody("x", "y", "z"),
        request_ids=("r1",),
        usage=Usage(1, 2),
        created_at="2026-01-01T00:00:00Z",
        finished_at=None,
    )
    assert TurnView.from_json(json.loads(json.dumps(view.to_json()))) == view
    assert ErrorBody.from_json(ErrorBody("x", "y", "z").envelope()) == ErrorBody("x", "y", "z")
    assert turn_audio_path("a/b") == "/turns/a%2Fb/audio"
    for wrong in (None, [], {"state": "running"}, {**view.to_json(), "state": "odd"}):
        with pytest.raises(ContractError):
            TurnView.from_json(wrong)
