"""How numbers and times are written."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from wopr.client.billing import DaySpend
from wopr.client.logwords import log_words
from wopr.web import formats
from wopr.web.chart import nice_top, spend_chart
from wopr.web.pages.chat import unanswered
from wopr.web.pages.usage import by_turn
from wopr.web.prices import Prices, parse_prices
from wopr.web.rendering import local_path

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        ("0", "$0.0000"),
        ("5", "$5.0000"),
        ("1234.5678", "$1,234.5678"),
        ("4.99993798", "$4.9999"),
        ("0.00001", "$0.0000"),
        ("-0.42", "−$0.4200"),
        ("-0.000018", "−$0.0001"),
    ],
)
def test_what_one_has_always_shows_four_places_and_never_more_than_is_there(amount: str, words: str) -> None:
    assert formats.usd(Decimal(amount)) == words


@pytest.mark.parametrize(
    ("amount", "words"), [("0", "$0.0000"), ("0.000018", "$0.0001"), ("0.13", "$0.1300"), ("2.910001", "$2.9101")]
)
def test_what_was_spent_is_never_shown_as_nothing_or_as_less(amount: str, words: str) -> None:
    assert formats.usd_cost(Decimal(amount)) == words


@pytest.mark.parametrize(
    ("amount", "words"), [("5", "$5"), ("1.5", "$1.50"), ("0.006", "$0.006"), ("0.10", "$0.10"), ("1200", "$1,200")]
)
def test_a_price_has_the_places_that_it_needs(amount: str, words: str) -> None:
    assert formats.usd_price(Decimal(amount)) == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [("0.000408000", "$0.000408"), ("3", "$3.00"), ("12.5", "$12.50"), ("-0.000000001", "−$0.000000001")],
)
def test_receipts_show_every_digit(amount: str, words: str) -> None:
    assert formats.usd_exact(Decimal(amount)) == words


def test_a_persona_is_told_in_a_line() -> None:
    assert formats.persona("You are a calm helper. You never flatter.") == "A calm helper."
    assert formats.persona("Terse") == "Terse."
    assert formats.persona(None) == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"at": "x", "level": "info", "event": "started", "bot_id": "b", "ms": 85, "code": null}', "started  ms=85"),
        ('{"event": "ready"}', "ready"),
        ("plain words", "plain words"),
        ("{broken", "{broken"),
        ('{"no": "event"}', '{"no": "event"}'),
    ],
)
def test_lines_of_the_log_are_told_in_words(line: str, words: str) -> None:
    assert log_words(line) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3, "just now"),
        (42, "42 s ago"),
        (200, "3 min ago"),
        (7300, "2 h ago"),
        (200_000, "2 d ago"),
        (-90_000, "in 1 day"),
    ],
)
def test_times_are_told_roughly(seconds: float, words: str) -> None:
    assert formats.ago(NOW - timedelta(seconds=seconds), NOW) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s"), (42, "42 s"), (60, "1 min"), (7200, "2 h"), (86_400, "1 day"), (40 * 86_400, "40 days")],
)
def test_a_duration_until_now_is_rough(seconds: int, words: str) -> None:
    assert formats.since(NOW - timedelta(seconds=seconds), NOW) == words


@pytest.mark.parametrize(
    "path", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:x", "/a\nb", "", None]
)
def test_only_paths_of_ours_are_followed_after_signing_in(path: str | None) -> None:
    assert local_path(path) == "/dashboard"


def test_a_path_of_ours_is_followed() -> None:
    assert local_path("/bots/1?c=2") == "/bots/1?c=2"


@pytest.mark.parametrize(
    ("highest", "top"), [("0", "1"), ("0.19", "0.2"), ("0.21", "0.25"), ("3.1", "5"), ("10", "10")]
)
def test_the_chart_ends_at_a_round_number(highest: str, top: str) -> None:
    assert nice_top(Decimal(highest)) == Decimal(top)


def test_bars_stand_on_the_axis_and_stay_inside() -> None:
    days = [DaySpend(date=date(2026, 11, n + 1), inference_usd=Decimal(n), runtime_usd=Decimal(1)) for n in range(20)]
    chart = spend_chart(days)
    for bar in chart.bars:
        assert bar.runtime_y + bar.runtime_height == pytest.approx(chart.base_y, abs=0.02)
        assert bar.inference_y >= 0
    assert chart.highest == days[-1]


def test_an_account_without_spend_still_has_an_axis() -> None:
    assert spend_chart([]).lines[0].label == "$0"


def test_prices_that_are_missing_are_no_error() -> None:
    assert parse_prices({}) == Prices()
    assert Prices().talk_usd is None
    assert Prices().answers is None


def test_a_question_without_an_answer_names_its_turn() -> None:
    from wopr.client.conversation import Message

    asked = Message(id="1", role="user", text="?", turn_id="t")
    told = Message(id="2", role="assistant", text="!", turn_id="t")
    assert unanswered([asked]) == "t"
    assert unanswered([asked, told]) is None
    assert unanswered([]) is None


def test_requests_of_one_turn_are_one_answer() -> None:
    from wopr.client.billing import Usage

    lines = [
        Usage(request_id="a", turn_id="t", kind="chat", model="m", cost_usd=Decimal("0.1"), prompt_tokens=3),
        Usage(request_id="b", turn_id=None, kind="chat", model="m", cost_usd=Decimal("0.2")),
        Usage(request_id="c", turn_id="t", kind="embedding", model="n", cost_usd=Decimal("0.3"), completion_tokens=4),
    ]
    first, second = by_turn(lines)
    assert (first.total_usd, first.tokens, first.models) == (Decimal("0.4"), 7, ["m", "n"])
    assert second.turn_id is None
