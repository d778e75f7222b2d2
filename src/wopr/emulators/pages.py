"""Renders the stand-ins' pages: Jinja2 templates and static files of our own, nothing from outside."""

from datetime import UTC, datetime
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from wopr.emulators.documents import Document

_HERE = Path(__file__).parent
_TEMPLATES = Jinja2Templates(_HERE / "templates")
# Forms lead to the merchant's own address after payment, so form-action can't be 'self'.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; form-action *; frame-src 'self'; "
    "base-uri 'none'"
)


def page(request: Request, template: str, content: Document, status: int = 200) -> HTMLResponse:
    """A rendered page with a strict Content-Security-Policy."""
    headers = {"content-security-policy": POLICY, "cache-control": "no-store", "x-content-type-options": "nosniff"}
    return _TEMPLATES.TemplateResponse(request, template, content, status, headers)


def mount_static(app: FastAPI) -> None:
    """Serve style sheets and scripts under `/static`."""
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")


def money(cents: int, currency: str = "usd") -> str:
    """An amount as people read it."""
    sign = "$" if currency == "usd" else f"{currency.upper()} "
    return f"{'-' if cents < 0 else ''}{sign}{abs(cents) // 100:,}.{abs(cents) % 100:02d}"


def day(epoch: int) -> str:
    """A date as people read it."""
    moment = datetime.fromtimestamp(epoch, UTC)
    return f"{moment:%B} {moment.day}, {moment.year}"


def moment_text(epoch: float) -> str:
    """A moment as operators read it."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%S")


_TEMPLATES.env.filters |= {"money": money, "day": day, "moment": moment_text}
