"""Every pair of colours that text is written in reads at 4.5:1, in both themes. The tokens' file is the source."""

from __future__ import annotations

import math
import re

import pytest

from wopr.web.assets import HERE

TEXT_ON = {
    "text": ("canvas", "surface", "raised", "sunken", "hover", "accent-soft"),
    "text-soft": (
        "canvas",
        "surface",
        "raised",
        "sunken",
        "hover",
        "good-soft",
        "warn-soft",
        "bad-soft",
        "accent-soft",
    ),
    "muted": ("canvas", "surface", "raised", "sunken", "hover"),
    "accent": ("canvas", "surface", "raised", "sunken", "accent-soft"),
    "accent-strong": ("canvas", "surface", "sunken"),
    "good": ("good-soft", "surface", "canvas"),
    "warn": ("warn-soft", "surface", "sunken"),
    "bad": ("bad-soft", "surface", "canvas", "sunken", "raised", "hover"),
    "on-accent": ("accent", "accent-strong"),
    "on-bad": ("bad-strong",),
}
EDGES_ON = {"line-strong": ("canvas", "surface"), "chart-inference": ("surface",)}
DECLARATION = re.compile(r"--([\w-]+): light-dark\(oklch\(([^)]*)\), oklch\(([^)]*)\)\)")


def tokens() -> dict[str, tuple[str, str]]:
    text = (HERE / "css" / "tokens.css").read_text()
    return {name: (light, dark) for name, light, dark in DECLARATION.findall(text)}


def luminance(oklch: str) -> float:
    """Relative luminance (WCAG) of an oklch colour; https://bottosson.github.io/posts/oklab/ for the matrices."""
    lightness, chroma, hue = [*oklch.split("/")[0].split(), "0"][:3]
    size, angle = float(chroma), math.radians(float(hue))
    light, a, b = float(lightness.rstrip("%")) / 100, size * math.cos(angle), size * math.sin(angle)
    long = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (light - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    clipped = [min(1.0, max(0.0, part)) for part in (red, green, blue)]
    return 0.2126 * clipped[0] + 0.7152 * clipped[1] + 0.0722 * clipped[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


PAIRS = [(front, back, 4.5) for front, backs in TEXT_ON.items() for back in backs]
PAIRS += [(front, back, 3.0) for front, backs in EDGES_ON.items() for back in backs]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("front", "back", "needed"), PAIRS)
def test_colours_that_meet_read_well(theme: str, front: str, back: str, needed: float) -> None:
    index = ("light", "dark").index(theme)
    known = tokens()
    ratio = contrast(known[front][index], known[back][index])
    assert ratio >= needed, f"{front} on {back} in {theme}: {ratio:.2f}"
