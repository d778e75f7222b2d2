"""Prices in sight on every page: the API's public sheet, read each minute; the last one is kept while it is away."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import httpx

from wopr.client import ApiClient, ApiError, Caller

FRESH_SECONDS = 60.0
TYPICAL_PROMPT_TOKENS = 1500
TYPICAL_ANSWER_TOKENS = 250
KINDS = {"chat": "text", "embedding": "embeddings", "speech": "speech", "transcription": "transcription"}
SIZES = {
    "small": "For a quiet companion",
    "standard": "For everyday use",
    "large": "For long memories and many people",
}


@dataclass(frozen=True, slots=True)
class Size:
    """A size of bot with what it costs to keep it running for a month."""

    id: str
    month_usd: Decimal | None
    summary: str


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What a model costs: tokens by the million, speech by the million characters, recordings by the minute."""

    name: str
    kind: str
    input_usd: Decimal | None
    output_usd: Decimal | None
    unit_usd: Decimal | None
    unit: str

    @property
    def label(self) -> str:
        """Its name; the entry for models without one of their own is named by what it does."""
        return f"Other models: {KINDS.get(self.kind, self.kind)}" if self.name.startswith("*") else self.name

    @property
    def use(self) -> str:
        """What it does, for who does not know its name; empty where the label says it."""
        return "" if self.name.startswith("*") else KINDS.get(self.kind, self.kind).capitalize()


@dataclass(frozen=True, slots=True)
class Prices:
    """What the pages say about money."""

    plan_usd: Decimal | None = None
    topups_cents: tuple[int, ...] = ()
    sizes: tuple[Size, ...] = ()
    models: tuple[ModelPrice, ...] = ()

    def size(self, size_id: str | None) -> Size | None:
        """The size by its id."""
        return next((size for size in self.sizes if size.id == size_id), None)

    @property
    def bot_usd(self) -> Decimal | None:
        """What the usual bot costs a month: the one called standard, else the first."""
        usual = self.size("standard") or (self.sizes[0] if self.sizes else None)
        return usual.month_usd if usual else None

    @property
    def talk_usd(self) -> Decimal | None:
        """What the plan leaves for talking once the usual bot is paid."""
        if self.plan_usd is None or self.bot_usd is None:
            return None
        return self.plan_usd - self.bot_usd

    @property
    def answers(self) -> int | None:
        """Roughly how many answers that buys with the first model; rounded down, so as not to promise more."""
        model = next((one for one in self.models if one.input_usd is not None and one.output_usd), None)
        if model is None or model.input_usd is None or model.output_usd is None or not self.talk_usd:
            return None
        one = (model.input_usd * TYPICAL_PROMPT_TOKENS + model.output_usd * TYPICAL_ANSWER_TOKENS) / 1_000_000
        number = int(self.talk_usd / one)
        scale = 10 ** max(0, len(str(number)) - 2)
        return number // scale * scale if number > 0 else None


class PriceBoard:
    """The sheet with its age."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._prices = Prices()
        self._read_at = -FRESH_SECONDS

    async def current(self) -> Prices:
        """Prices not older than a minute; older ones, or none, while the API is away."""
        if time.monotonic() - self._read_at < FRESH_SECONDS:
            return self._prices
        try:
            sheet = await ApiClient.acting(self._http, Caller()).billing.prices()
        except ApiError:
            return self._prices
        self._prices, self._read_at = parse_prices(sheet), time.monotonic()
        return self._prices


def parse_prices(sheet: Mapping[str, Any]) -> Prices:  # Any: JSON, read field by field
    """Pick what the pages show out of the API's sheet."""
    plan = sheet.get("plan") or {}
    return Prices(
        plan_usd=_decimal(plan.get("price_usd")),
        topups_cents=tuple(int(cents) for cents in sheet.get("topups_cents") or ()),
        sizes=tuple(_size(entry) for entry in sheet.get("bots") or ()),
        models=tuple(_model(entry) for entry in sheet.get("models") or ()),
    )


def _size(entry: Mapping[str, Any]) -> Size:
    name = str(entry["size"])
    return Size(name, _decimal(entry.get("month_usd")), SIZES.get(name, ""))


def _model(entry: Mapping[str, Any]) -> ModelPrice:
    characters, minute = _decimal(entry.get("per_million_characters_usd")), _decimal(entry.get("per_minute_usd"))
    return ModelPrice(
        str(entry["name"]),
        str(entry.get("kind") or ""),
        _decimal(entry.get("prompt_per_million_usd")),
        _decimal(entry.get("completion_per_million_usd")),
        characters if characters is not None else minute,
        "for a million characters" if characters is not None else "a minute",
    )


def _decimal(value: object) -> Decimal | None:
    try:
        return None if value is None else Decimal(str(value))
    except InvalidOperation:
        return None
