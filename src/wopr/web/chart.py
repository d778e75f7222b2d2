"""Spend of thirty days as a drawing: pure arithmetic here, the SVG in a template, the numbers in a table below it.

Across, the units are percent of the drawing's width, so that it fits a phone without shrinking its letters; up, pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from wopr.client.billing import DaySpend

HEIGHT, TOP, BOTTOM = 180, 10, 22
STEPS = (Decimal(1), Decimal(2), Decimal("2.5"), Decimal(5), Decimal(10))
LABELS_EVERY = 7


@dataclass(frozen=True, slots=True)
class Bar:
    """One day: two stacked boxes in the middle of its slot. `slot` and `slot_width`, `x` and `width` are in percent.

    `between` is true of every second label, which a narrow screen has no room for.
    """

    slot: float
    slot_width: float
    x: float
    width: float
    inference_y: float
    inference_height: float
    runtime_y: float
    runtime_height: float
    label: str
    between: bool
    spend: DaySpend


@dataclass(frozen=True, slots=True)
class Line:
    """A horizontal guide with its amount in dollars."""

    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What the template draws."""

    height: int
    base_y: float
    bars: tuple[Bar, ...]
    lines: tuple[Line, ...]
    total: Decimal
    highest: DaySpend | None


def spend_chart(days: Sequence[DaySpend]) -> Chart:
    """Lay the days out; an account without spend still gets its axis."""
    highest = max(days, key=lambda one: one.total_usd, default=None)
    top = nice_top(highest.total_usd if highest else Decimal(0))
    inner = HEIGHT - TOP - BOTTOM
    base = float(HEIGHT - BOTTOM)
    slot = 100 / max(len(days), 1)
    bars = []
    for index, one in enumerate(days):
        runtime = _height(one.runtime_usd, top, inner)
        inference = _height(one.inference_usd, top, inner)
        before_last = len(days) - 1 - index
        label = f"{one.date.day} {one.date:%b}" if before_last % LABELS_EVERY == 0 else ""
        bars.append(
            Bar(
                slot=round(index * slot, 2),
                slot_width=round(slot, 2),
                x=round(index * slot + slot * 0.14, 2),
                width=round(slot * 0.72, 2),
                runtime_y=round(base - runtime, 2),
                runtime_height=runtime,
                inference_y=round(base - runtime - inference, 2),
                inference_height=inference,
                label=label,
                between=before_last % (2 * LABELS_EVERY) != 0,
                spend=one,
            )
        )
    lines = tuple(Line(round(base - inner * part / 2, 2), _axis(top * part / 2)) for part in (0, 1, 2))
    total = sum((one.total_usd for one in days), Decimal(0))
    shown = highest if highest and highest.total_usd > 0 else None
    return Chart(HEIGHT, base, tuple(bars), lines, total, shown)


def nice_top(highest: Decimal) -> Decimal:
    """The next round number at or above the highest day, so that the axis reads well. Never zero."""
    if highest <= 0:
        return Decimal(1)
    scale = Decimal(10) ** highest.adjusted()
    return next(step * scale for step in STEPS if step * scale >= highest)


def _height(amount: Decimal, top: Decimal, inner: int) -> float:
    return round(float(amount / top) * inner, 2) if amount > 0 else 0.0


def _axis(amount: Decimal) -> str:
    text = format(amount.normalize(), "f")
    _, _, places = text.partition(".")
    return f"${amount:.2f}" if amount and len(places) <= 2 else f"${text}"
