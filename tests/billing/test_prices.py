"""The price file: whole, in nano-dollars, and refused with the reason when it is wrong."""

from importlib import resources
from pathlib import Path

import pytest
from tests.billing.conftest import USD

from wopr.billing.prices import MONTH_SECONDS, load_prices, parse_prices
from wopr.core.errors import Invalid

PACKAGED = resources.files("wopr.billing").joinpath("prices.toml").read_text(encoding="utf-8")


def test_the_packaged_prices_are_those_that_we_advertise() -> None:
    sheet = load_prices()
    assert sheet.plan.price == sheet.plan.credit == 5 * USD
    assert sheet.plan.price_cents == 500
    assert sheet.topups_cents == (500, 1000, 2500, 5000, 10000)
    assert sheet.bot_month("standard") == 3 * USD
    assert {"small", "standard", "large"} <= set(sheet.bots)


def test_a_month_of_seconds_costs_the_month() -> None:
    sheet = load_prices()
    assert sheet.bot_runtime("standard", MONTH_SECONDS) == 3 * USD
    assert sheet.bot_second("standard") == 1157
    halves = sheet.bot_runtime("standard", 1000) + sheet.bot_runtime("standard", MONTH_SECONDS - 1000)
    assert 3 * USD - halves <= 1


def test_a_model_is_found_by_name_by_alias_and_by_its_kind() -> None:
    sheet = load_prices()
    assert sheet.model("handbook").cost(prompt_tokens=1_000_000, completion_tokens=1_000_000) == USD // 2
    assert sheet.model("text-embedding-3-small", "embedding").name == "minilm"
    assert sheet.model("tts-1", "speech").cost(units=1_000_000) == 5 * USD
    assert sheet.model("whisper-1", "transcription").cost(units=60) == 6_000_000
    assert sheet.model("qwen3-0.6b-q8").name == "*chat"


def test_part_of_a_nano_dollar_is_rounded_up_and_nothing_costs_nothing() -> None:
    model = load_prices().model("minilm", "embedding")
    assert model.cost(prompt_tokens=1) == 20
    assert model.upstream_cost(prompt_tokens=1) == 2
    assert model.cost() == 0


def test_every_price_covers_its_cost() -> None:
    sheet = load_prices()
    for model in sheet.models.values():
        assert model.cost(10**6, 10**6, 10**6) >= model.upstream_cost(10**6, 10**6, 10**6)
    for bot in sheet.bots.values():
        assert bot.month >= bot.upstream_month


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('price_usd = "5.00"', "price_usd = 5.00", "price_usd"),
        ('price_usd = "5.00"', 'price_usd = "five"', "five"),
        ('price_usd = "5.00"', 'price_usd = "-5"', "negative"),
        ('price_usd = "5.00"', "", "price_usd"),
        ("[bots.standard]", "[bots.usual]", "standard"),
        ('[models."*chat"]', "[models.other]", "*chat"),
        ('kind = "chat"', 'kind = "chatter"', "chatter"),
        ("grace_days = 4", "grace_days = -1", "days"),
        ("[plan]", "[plan", "wrong"),
    ],
)
def test_a_mistake_in_the_file_is_named(old: str, new: str, named: str) -> None:
    assert old in PACKAGED
    with pytest.raises(Invalid) as caught:
        parse_prices(PACKAGED.replace(old, new, 1))
    assert named in caught.value.message


def test_the_operators_file_replaces_the_packaged_one(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(PACKAGED.replace('month_usd = "3.00"', 'month_usd = "4.00"'), encoding="utf-8")
    assert load_prices(own).bot_month("standard") == 4 * USD
    with pytest.raises(Invalid):
        load_prices(tmp_path / "missing.toml")
