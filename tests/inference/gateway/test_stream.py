"""The scanner of streams: whatever way the bytes are cut, the same comes out and the same is counted."""

import json
from typing import Any

import pytest

from wopr.inference.gateway.stream import (
    TOKENS_MAX,
    StreamScanner,
    Usage,
    closing_events,
    find_usage,
    split_after,
    split_events,
)


def event(choices: list[dict[str, Any]], end: str = "\n\n", space: bool = False, **more: Any) -> bytes:
    separators = (", ", ": ") if space else (",", ":")
    document = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
    return f"data: {json.dumps(document, ensure_ascii=False, separators=separators)}{end}".encode()


def delta(text: str | None, **options: Any) -> bytes:
    content = {} if text is None else {"content": text}
    finish = "stop" if text is None else None
    return event([{"index": 0, "delta": content, "finish_reason": finish}], **options)


USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def stream(end: str = "\n\n", space: bool = False) -> tuple[bytes, bytes]:
    """A stream with everything that occurs, and what the client sees of it."""
    options: dict[str, Any] = {"end": end, "space": space}
    before = b": waking up" + end.encode() + delta("", **options) + delta("né", **options) + delta("日本語", **options)
    before += b"event: note" + end[: len(end) // 2].encode() + b"data: {" + end.encode()
    before += delta('say "usage": {"x":1} and [DONE]', **options) + delta(None, **options)
    done = b"data: [DONE]" + end.encode()
    return before + event([], usage=USAGE, **options) + done, before + done


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
@pytest.mark.parametrize("space", [False, True])
def test_a_stream_cut_in_two_at_every_byte_gives_the_same(end: str, space: bool) -> None:
    whole, shown = stream(end, space)
    for cut in range(len(whole) + 1):
        scanner = StreamScanner(keep_usage=False)
        out = scanner.feed(whole[:cut]) + scanner.feed(whole[cut:]) + scanner.finish()
        assert out == shown, cut
        assert scanner.usage == Usage(9, 3)
        assert (scanner.tokens, scanner.done, scanner.malformed) == (3, True, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_a_stream_in_pieces_of_any_size_gives_the_same(size: int) -> None:
    for end in ("\n\n", "\r\n\r\n"):
        whole, _ = stream(end)
        scanner = StreamScanner(keep_usage=True)
        pieces = [scanner.feed(whole[at : at + size]) for at in range(0, len(whole), size)]
        assert b"".join(pieces) + scanner.finish() == whole
        assert scanner.tokens == 3
        assert scanner.usage == Usage(9, 3)


def test_an_event_leaves_as_soon_as_its_blank_line_is_there() -> None:
    scanner = StreamScanner(keep_usage=False)
    assert scanner.feed(delta("a") + b'data: {"cho') == delta("a")
    assert scanner.feed(b'ices":[]}\n') == b""
    assert scanner.feed(b"\n") == b'data: {"choices":[]}\n\n'


def test_without_usage_the_deltas_are_the_count() -> None:
    scanner = StreamScanner(keep_usage=False)
    whole = delta("") + delta("a") * 5 + delta(None) + b"data: [DONE]\n\n"
    assert scanner.feed(whole) == whole
    assert (scanner.tokens, scanner.usage) == (5, None)


def test_tool_calls_reasoning_and_plain_text_count_too() -> None:
    scanner = StreamScanner(keep_usage=False)
    call = [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}}]
    scanner.feed(event(call) + event([{"index": 0, "delta": {"reasoning_content": "hm"}}]))
    scanner.feed(event([{"index": 0, "text": "once"}]))
    assert scanner.tokens == 3


def test_a_usage_that_comes_with_choices_is_read_and_left_in_place() -> None:
    scanner = StreamScanner(keep_usage=False)
    chunk = event([{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=USAGE)
    assert scanner.feed(chunk) == chunk
    assert scanner.usage == Usage(9, 3)


def test_null_usage_is_no_usage() -> None:
    scanner = StreamScanner(keep_usage=False)
    chunk = event([{"index": 0, "delta": {"content": "a"}}], usage=None)
    assert scanner.feed(chunk) == chunk
    assert scanner.usage is None


@pytest.mark.parametrize(
    "bad", [{"prompt_tokens": -1}, {"prompt_tokens": "x"}, {"prompt_tokens": 1, "completion_tokens": None}]
)
def test_a_usage_that_makes_no_sense_is_not_believed(bad: dict[str, Any]) -> None:
    scanner = StreamScanner(keep_usage=False)
    scanner.feed(event([], usage=bad))
    assert scanner.usage is None


def test_counts_beyond_all_reason_are_bounded() -> None:
    scanner = StreamScanner(keep_usage=False)
    scanner.feed(event([], usage={"prompt_tokens": 10**30, "completion_tokens": 2**63}))
    assert scanner.usage == Usage(TOKENS_MAX, TOKENS_MAX)


def test_malformed_events_pass_and_are_counted() -> None:
    scanner = StreamScanner(keep_usage=False)
    whole = b"data: {broken\n\n" + b"data: 17\n\n" + delta("a") + b"data: {]}\n\ndata: [DONE]\n\n"
    assert scanner.feed(whole) == whole
    assert scanner.tokens == 1
    assert scanner.malformed >= 2


def test_an_early_end_leaves_the_unfinished_event_for_the_end() -> None:
    scanner = StreamScanner(keep_usage=False)
    assert scanner.feed(delta("a") + b'data: {"choices"') == delta("a")
    assert scanner.finish() == b'data: {"choices"'
    assert scanner.done is False


def test_an_event_without_end_is_passed_on_before_it_fills_the_memory() -> None:
    scanner = StreamScanner(keep_usage=False)
    total = sum(len(scanner.feed(b"x" * 1_000_000)) for _ in range(6))
    assert total >= 5_000_000
    assert scanner.malformed == 1


def test_events_are_split_at_blank_lines_only() -> None:
    whole, _ = stream("\r\n\r\n")
    events = split_events(whole)
    assert b"".join(events) == whole
    assert len(events) == 9


def test_a_stream_is_cut_after_so_many_tokens() -> None:
    events = delta("") + delta("a") + delta("b") + delta("c")
    assert split_after(events, 2) == delta("") + delta("a") + delta("b")
    assert split_after(events, 0) == delta("")


def test_our_own_end_looks_like_the_engines() -> None:
    scanner = StreamScanner(keep_usage=True)
    scanner.feed(delta("a"))
    events = split_events(closing_events(scanner, 2, usage=Usage(4, 1)))
    documents = [json.loads(each[6:]) for each in events[:-1]]
    assert [document["choices"] for document in documents] == [
        [{"index": 0, "delta": {}, "finish_reason": "length"}],
        [{"index": 1, "delta": {}, "finish_reason": "length"}],
        [],
    ]
    assert all((d["id"], d["object"], d["model"]) == ("c1", "chat.completion.chunk", "m") for d in documents)
    assert documents[-1]["usage"]["total_tokens"] == 5
    assert events[-1] == b"data: [DONE]\n\n"


def test_the_usage_of_a_whole_answer() -> None:
    answer = {"choices": [{"message": {"content": '"usage": {"prompt_tokens": 1}'}}], "usage": USAGE, "x": 1}
    assert find_usage(json.dumps(answer).encode()) == Usage(9, 3)
    assert find_usage(b'{"usage": {"prompt_tokens": 7, "total_tokens": 7}}') == Usage(7, 0)
    assert find_usage(b'{"usage": null}') is None
    assert find_usage(b'{"usage": {"prompt_tok') is None
    assert find_usage(b"") is None
