"""What a reader chose for this browser: theme, streaming, shortcuts. One readable cookie each, nothing secret."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

THEMES = ("system", "light", "dark")
YEAR_SECONDS = 365 * 86400


@dataclass(frozen=True, slots=True)
class Preferences:
    """The choices, with defaults for a browser that never made any."""

    theme: str = "system"
    streaming: bool = True
    shortcuts: bool = True


def preferences_of(request: Request) -> Preferences:
    """Read the cookies; anything unknown is the default."""
    theme = request.cookies.get("wopr_theme", "system")
    return Preferences(
        theme=theme if theme in THEMES else "system",
        streaming=request.cookies.get("wopr_streaming") != "off",
        shortcuts=request.cookies.get("wopr_shortcuts") != "off",
    )


def store(response: Response, chosen: Preferences, secure: bool) -> None:
    """Write the cookies onto an answer."""
    values = {
        "wopr_theme": chosen.theme,
        "wopr_streaming": "on" if chosen.streaming else "off",
        "wopr_shortcuts": "on" if chosen.shortcuts else "off",
    }
    for name, value in values.items():
        response.set_cookie(name, value, max_age=YEAR_SECONDS, samesite="lax", secure=secure)
