"""The price sheet: one file that the operator edits, read once, in whole nano-dollars."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from wopr.core.errors import Invalid
from wopr.core.money import NANOS_PER_CENT, Nanos, from_usd

PriceKind = Literal["chat", "embedding", "speech", "transcription"]
MONTH_SECONDS = 30 * 24 * 3600
MILLION = 1_000_000
NOTHING = Nanos(0)
MINUTE_SECONDS = 60
KINDS: tuple[PriceKind, ...] = ("chat", "embedding", "speech", "transcription")


@dataclass(frozen=True)
class Rates:
    """Nano-dollars per million prompt tokens, per million completion tokens, and per `unit_size` other units."""

    prompt: Nanos = NOTHING
    completion: Nanos = NOTHING
    unit: Nanos = NOTHING


@dataclass(frozen=True)
class ModelPrice:
    """What one model costs. Other units are characters of speech (a million) or seconds of audio (a minute)."""

    name: str
    kind: PriceKind
    price: Rates
    upstream: Rates

    @property
    def unit_size(self) -> int:
        return MINUTE_SECONDS if self.kind == "transcription" else MILLION

    def cost(self, prompt_tokens: int = 0, completion_tokens: int = 0, units: int = 0) -> Nanos:
        """What a customer pays, in nano-dollars, rounded up."""
        return self._total(self.price, prompt_tokens, completion_tokens, units)

    def upstream_cost(self, prompt_tokens: int = 0, completion_tokens: int = 0, units: int = 0) -> Nanos:
        """What we pay, in nano-dollars, rounded up."""
        return self._total(self.upstream, prompt_tokens, completion_tokens, units)

    def _total(self, rates: Rates, prompt: int, completion: int, units: int) -> Nanos:
        tokens = _up(prompt * rates.prompt + completion * rates.completion, MILLION)
        return Nanos(tokens + _up(units * rates.unit, self.unit_size))


@dataclass(frozen=True)
class BotPrice:
    """What a running bot of one size costs in a month of 30 days."""

    month: Nanos
    upstream_month: Nanos


@dataclass(frozen=True)
class PlanPrice:
    """The subscription: what a month costs, and the credit that it grants."""

    name: str
    price: Nanos
    credit: Nanos

    @property
    def price_cents(self) -> int:
        return self.price // NANOS_PER_CENT


@dataclass(frozen=True)
class Stages:
    """When credit counts as out, and how many days each stage lasts."""

    empty_below: Nanos
    warning_days: int
    grace_days: int
    suspended_days: int
    archived_days: int
    reminder_days: int


@dataclass(frozen=True)
class PriceSheet:
    """Every price."""

    models: Mapping[str, ModelPrice]
    aliases: Mapping[str, str]
    bots: Mapping[str, BotPrice]
    plan: PlanPrice
    topups_cents: tuple[int, ...]
    stages: Stages

    def model(self, name: str, kind: PriceKind = "chat") -> ModelPrice:
        """The price of a model, by name or alias; without an entry of its own the default of its kind."""
        found = self.models.get(self.aliases.get(name, name))
        return found or self.models[f"*{kind}"]

    def bot_month(self, size: str) -> Nanos:
        """What a bot of this size costs in a month of 30 days; KeyError for an unknown size."""
        return self.bots[size].month

    def bot_second(self, size: str) -> Nanos:
        """What a second of a bot of this size costs, rounded down; `bot_runtime` is exact over longer stretches."""
        return self.bot_runtime(size, 1)

    def bot_runtime(self, size: str, seconds: int) -> Nanos:
        """What so many seconds of a bot of this size cost; less than a nano-dollar is dropped once, not per second."""
        return Nanos(self.bots[size].month * seconds // MONTH_SECONDS)


def load_prices(path: Path | None = None) -> PriceSheet:
    """The operator's file, or the packaged one; read once. Invalid names the entry that is wrong."""
    return _load(path)


@lru_cache(maxsize=8)
def _load(path: Path | None) -> PriceSheet:
    source = path if path is not None else resources.files("wopr.billing").joinpath("prices.toml")
    try:
        return parse_prices(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise Invalid(f"The price file {path} can't be read: {error}", remedy="Correct WOPR_PRICES.") from error


def parse_prices(document: str) -> PriceSheet:
    """A price sheet from TOML; Invalid names what is missing or wrong."""
    try:
        data = tomllib.loads(document)
        models = {name: _model(name, entry) for name, entry in data["models"].items()}
        sheet = PriceSheet(
            models=models,
            aliases={alias: name for name, entry in data["models"].items() for alias in entry.get("aliases", ())},
            bots={size: _bot(entry) for size, entry in data["bots"].items()},
            plan=PlanPrice(data["plan"]["name"], _usd(data["plan"], "price_usd"), _usd(data["plan"], "credit_usd")),
            topups_cents=tuple(from_usd(amount) // NANOS_PER_CENT for amount in data["topups"]["amounts_usd"]),
            stages=_stages(data["entitlement"]),
        )
    except KeyError as error:
        raise Invalid(f"The price file lacks {error}.", remedy="Compare it with the packaged prices.toml.") from error
    except (tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise Invalid(
            f"The price file is wrong: {error}", remedy="Compare it with the packaged prices.toml."
        ) from error
    missing = [f"*{kind}" for kind in KINDS if f"*{kind}" not in models] + ["standard"] * ("standard" not in sheet.bots)
    if missing:
        raise Invalid(f"The price file lacks {', '.join(missing)}.", remedy="Compare it with the packaged prices.toml.")
    return sheet


# TOML tables are dictionaries of anything; each field is checked where it is taken out.
Table = Mapping[str, Any]


def _model(name: str, entry: Table) -> ModelPrice:
    kind = entry["kind"]
    if kind not in KINDS:
        raise ValueError(f"{name}: the kind {kind!r} is none of {', '.join(KINDS)}")
    return ModelPrice(name, kind, _rates(kind, entry, ""), _rates(kind, entry, "cost_"))


def _rates(kind: PriceKind, entry: Table, prefix: str) -> Rates:
    if kind == "chat":
        return Rates(
            prompt=_usd(entry, f"{prefix}prompt_per_million_usd"),
            completion=_usd(entry, f"{prefix}completion_per_million_usd"),
        )
    if kind == "embedding":
        return Rates(prompt=_usd(entry, f"{prefix}prompt_per_million_usd"))
    if kind == "speech":
        return Rates(unit=_usd(entry, f"{prefix}per_million_characters_usd"))
    return Rates(unit=_usd(entry, f"{prefix}per_minute_usd"))


def _bot(entry: Table) -> BotPrice:
    return BotPrice(_usd(entry, "month_usd"), _usd(entry, "cost_month_usd"))


def _stages(entry: Table) -> Stages:
    names = ("warning_days", "grace_days", "suspended_days", "archived_days", "reminder_days")
    days = [entry[name] for name in names]
    if any(not isinstance(value, int) or value < 0 for value in days):
        raise ValueError("the stages of [entitlement] last whole days")
    return Stages(_usd(entry, "empty_below_usd"), *days)


def _usd(entry: Table, name: str) -> Nanos:
    value = entry[name]
    if not isinstance(value, str):
        raise TypeError(f'{name} must be a string such as "0.10"')
    nanos = from_usd(value)
    if nanos < 0:
        raise ValueError(f"{name} is negative")
    return nanos


def _up(product: int, size: int) -> int:
    return -(-product // size)
