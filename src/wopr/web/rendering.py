"""Templates to answers: the environment, what every page may use, and the two ways to answer with HTML."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse

from wopr.client.logwords import log_words
from wopr.web import formats, icons, markdown
from wopr.web.preferences import preferences_of
from wopr.web.results import result_of

if TYPE_CHECKING:
    from wopr.web.site import Site

TEMPLATES = Path(__file__).parent / "templates"


@cache
def environment() -> Environment:
    """Autoescape always; an unknown name in a template is an error rather than an empty spot."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    env.globals |= {"icon": icons.icon, "now": _now}
    env.filters |= {
        "usd": formats.usd,
        "usd_cost": formats.usd_cost,
        "usd_exact": formats.usd_exact,
        "usd_price": formats.usd_price,
        "signed_usd": formats.signed_usd,
        "ago": lambda moment: formats.ago(moment, _now()),
        "since": lambda moment: formats.since(moment, _now()),
        "ahead": lambda moment: formats.ahead(moment, _now()),
        "in_days": lambda days: formats.day(_now() + timedelta(days=days)),
        "day": formats.day,
        "clock": formats.clock,
        "iso": formats.iso,
        "seconds": formats.seconds,
        "period": formats.period,
        "count": formats.count,
        "log_words": log_words,
        "persona": formats.persona,
        "browser_name": formats.browser_name,
        "markdown": markdown.to_html,
    }
    return env


def render(request: Request, name: str, values: Mapping[str, Any], status: int = 200) -> HTMLResponse:
    """A page or a part of one. Any: templates take whatever the page gives them."""
    site: Site = request.app.state.site
    shared = {
        "asset": site.assets.url,
        "request_path": request.url.path,
        "mailbox": site.mailbox,
        "preferences": preferences_of(request),
        "result": result_of(request.query_params.get("done")),
        "identity": None,
        "returning": False,
        "billing": None,
        "prices": None,
        "problem": None,
    }
    return HTMLResponse(environment().get_template(name).render({**shared, **values}), status)


def redirect(path: str, done: str | None = None) -> RedirectResponse:
    """After a form: see other. `path` is one of ours; `done` names the banner there."""
    if done:
        path += f"{'&' if '?' in path else '?'}done={done}"
    return RedirectResponse(path, 303)


def local_path(wanted: str | None, otherwise: str = "/dashboard") -> str:
    """Where to go after signing in: only a path of ours, whatever the address said."""
    if not wanted or not wanted.startswith("/") or wanted.startswith(("//", "/\\")):
        return otherwise
    if any(ord(letter) < 33 or letter == "\\" for letter in wanted):
        return otherwise
    return wanted


def _now() -> datetime:
    return datetime.now(UTC)
