"""The pure parts: the stream parser, the prompt's budgets, the retry plan, the contract's payloads."""

from __future__ import annotations

import json

import pytest

from wopr.bot import gateway_errors, prompt
from wopr.bot.contract import ContractError, ErrorBody, TurnRequest, TurnState, TurnView, Usage, turn_audio_path
from wopr.bot.conversations import Exchange
from wopr.bot.prompt import Identity
from wopr.bot.recall import Recalled
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
    away = gateway_errors.unreachable()
    delays = [gateway_errors.retry_delay(away, attempt) for attempt in range(1, 8)]
    assert delays == [0.2, 0.5, 1.0, 2.0, 4.0, None, None]
    busy = gateway_errors.from_answer(429, {"Retry-After": "2.5"}, b"")
    assert [gateway_errors.retry_delay(busy, attempt) for attempt in range(1, 6)] == [2.5, 2.5, 2.5, None, None]
    for odd in ("", "Wed, 21 Oct 2015 07:28:00 GMT", "nan", "inf", "-1"):
        error = gateway_errors.from_answer(429, {"Retry-After": odd}, b"")
        assert gateway_errors.retry_delay(error, 1) == 1.0
    for status in (400, 401, 402, 403, 404, 422):
        assert gateway_errors.retry_delay(gateway_errors.from_answer(status, {}, b"{"), 1) is None
    assert gateway_errors.retry_delay(gateway_errors.from_answer(502, {}, b""), 1) == 0.2


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
