"""API keys: made, shown once, revoked; with snippets that work as they stand."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from starlette.responses import Response

from wopr.client import ApiError
from wopr.client.accounts import Key, NewKey
from wopr.web.once import new_mark, once_key
from wopr.web.rendering import redirect
from wopr.web.visit import Member, Visit

router = APIRouter()
SCOPES = (
    ("write", "Write", "Use models and bots, change settings."),
    ("read", "Read", "Look at everything; change nothing, spend nothing."),
    ("admin", "Admin", "Everything, also keys and payments."),
)
EXPIRIES = (("30", "30 days"), ("90", "90 days"), ("365", "1 year"), ("", "Never"))
Field = Annotated[str, Form()]


@router.get("/keys")
async def keys(visit: Member) -> Response:
    """All keys, and the form for another."""
    return await _page(visit)


@router.post("/keys")
async def create(
    visit: Member, name: Field = "", scope: Field = "write", expires: Field = "90", once: Field = ""
) -> Response:
    """Make a key. Its secret is on this answer and nowhere else, hence no redirect."""
    try:
        days = int(expires) if expires else None
        key = once_key(once, name, scope, expires)
        made = await visit.api.accounts.create_key(name.strip(), scope, days, once=key)
    except ApiError as error:
        if error.unreachable or error.status == 401:
            raise
        return await _page(visit, problem=error, typed={"name": name, "scope": scope, "expires": expires})
    except ValueError:
        problem = ApiError(422, "invalid", "The expiry has to be a number of days.")
        return await _page(visit, problem=problem, typed={"name": name, "scope": scope, "expires": "90"})
    return await _page(visit, made=made)


@router.post("/keys/{key_id}/revoke")
async def revoke(visit: Member, key_id: str) -> Response:
    """Revoke it; the page has asked before."""
    await visit.api.accounts.revoke_key(key_id)
    return redirect("/keys", "key-revoked")


async def _page(
    visit: Visit,
    *,
    made: NewKey | None = None,
    problem: ApiError | None = None,
    typed: dict[str, str] | None = None,
) -> Response:
    known = await visit.api.accounts.keys()
    values = {
        "active": [key for key in known if key.revoked_at is None and not _of_a_bot(key)],
        "revoked": sum(1 for key in known if key.revoked_at is not None),
        "made": made,
        "scopes": SCOPES,
        "expiries": EXPIRIES,
        "form": typed or {"name": "", "scope": "write", "expires": "90"},
        "once": new_mark(),
        "problem": problem,
        "base_url": visit.site.api_public_url,
    }
    return visit.page("pages/keys.html", values, problem.status if problem else 200)


def _of_a_bot(key: Key) -> bool:
    """Bots have keys of their own, which nobody should revoke by hand."""
    return key.scope == "service"
