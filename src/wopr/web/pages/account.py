"""The person: name, password, signed-in browsers, and how the pages look in this one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from starlette.responses import Response

from wopr.client import ApiError
from wopr.web.preferences import THEMES, Preferences, preferences_of, store
from wopr.web.rendering import local_path, redirect
from wopr.web.visit import Guest, Member, Visit

router = APIRouter()
Field = Annotated[str, Form()]


@router.get("/account")
async def account(visit: Member) -> Response:
    """Everything on one page."""
    return await _page(visit)


@router.post("/account/name")
async def rename(visit: Member, name: Field = "") -> Response:
    """Change the name."""
    try:
        await visit.api.accounts.rename(name.strip())
    except ApiError as error:
        return await _page(visit, "profile", error)
    return redirect("/account", "name-saved")


@router.post("/account/password")
async def password(visit: Member, current: Field = "", new: Field = "") -> Response:
    """Change the password, proving the current one."""
    try:
        await visit.api.accounts.change_password(current, new)
    except ApiError as error:
        return await _page(visit, "password", error)
    return redirect("/account", "password-changed")


@router.post("/account/sessions/{session_id}/revoke")
async def revoke(visit: Member, session_id: str) -> Response:
    """Sign one browser out."""
    await visit.api.accounts.revoke_session(session_id)
    return redirect("/account", "session-revoked")


@router.post("/account/preferences")
async def preferences(visit: Guest, theme: Field = "system", streaming: Field = "", shortcuts: Field = "") -> Response:
    """Theme, streaming and shortcuts of this browser."""
    chosen = Preferences(theme if theme in THEMES else "system", streaming == "on", shortcuts == "on")
    answer = redirect("/account", "preferences-saved")
    store(answer, chosen, visit.site.secure)
    return answer


@router.post("/theme")
async def theme(visit: Guest, theme: Field = "system", back: Field = "/") -> Response:
    """The theme alone, from the switch in the frame of every page."""
    kept = preferences_of(visit.request)
    chosen = Preferences(theme if theme in THEMES else "system", kept.streaming, kept.shortcuts)
    answer = redirect(local_path(back, "/"))
    store(answer, chosen, visit.site.secure)
    return answer


async def _page(visit: Visit, place: str = "", problem: ApiError | None = None) -> Response:
    if problem is not None and (problem.unreachable or (problem.status == 401 and place != "password")):
        raise problem
    sessions = await visit.api.accounts.sessions()
    values = {"sessions": sessions, "themes": THEMES, "place": place, "problem": problem}
    return visit.page("pages/account.html", values, problem.status if problem else 200)
