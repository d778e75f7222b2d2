"""A bot's life and settings: start, stop, restart, change, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form
from starlette.responses import Response

from wopr.client import ApiError
from wopr.client.fleet import Bot
from wopr.web.pages.new_bot import CharacterForm, choices
from wopr.web.rendering import local_path, redirect
from wopr.web.visit import Member, Visit

router = APIRouter()
Field = Annotated[str, Form()]
DONE = {"start": "bot-started", "stop": "bot-stopped", "restart": "bot-restarted"}


@router.get("/bots/{bot_id}/settings")
async def settings(visit: Member, bot_id: str) -> Response:
    """The form, with what is."""
    bot = await visit.api.fleet.bot(bot_id)
    return visit.page("pages/bot_settings.html", await _values(visit, bot))


@router.post("/bots/{bot_id}/settings")
async def save(visit: Member, bot_id: str, form: Annotated[CharacterForm, Form()]) -> Response:
    """Change what differs; on refusal the form stays as it was typed."""
    bot = await visit.api.fleet.bot(bot_id)
    typed = {name: value.strip() for name, value in form.model_dump(exclude={"template"}).items()}
    # A choice that was not on the page says nothing; an empty text does.
    typed = {name: value for name, value in typed.items() if value or name in ("name", "persona", "instructions")}
    changes = {key: value for key, value in typed.items() if value != (getattr(bot, key) or "")}
    try:
        if changes:
            await visit.api.fleet.update(bot_id, changes)
    except ApiError as error:
        if error.unreachable or error.status == 401:
            raise
        values = await _values(visit, bot.model_copy(update=typed), error)
        return visit.page("pages/bot_settings.html", values, error.status)
    return redirect(f"/bots/{bot_id}/settings", "bot-saved")


@router.post("/bots/{bot_id}/delete")
async def delete(visit: Member, bot_id: str) -> Response:
    """Delete the bot with its memory; the page has asked before."""
    await visit.api.fleet.delete(bot_id)
    return redirect("/dashboard", "bot-deleted")


@router.post("/bots/{bot_id}/{action}")
async def live(visit: Member, bot_id: str, action: str, back: Field = "") -> Response:
    """Start, stop or restart, and return to where the button was."""
    if action not in DONE:
        raise ApiError(404, "not_found", "There is no such page.")
    fleet = visit.api.fleet
    await {"start": fleet.start, "stop": fleet.stop, "restart": fleet.restart}[action](bot_id)
    return redirect(local_path(back, f"/bots/{bot_id}/settings"), DONE[action])


@router.get("/bots/{bot_id}/state")
async def state(visit: Member, bot_id: str) -> Response:
    """The badge alone, renewed while it changes."""
    return visit.page("parts/bot_state.html", {"bot": await visit.api.fleet.bot(bot_id)})


async def _values(visit: Visit, bot: Bot, problem: ApiError | None = None) -> dict[str, Any]:
    offer = await visit.api.inference.offer()
    form = {key: getattr(bot, key) or "" for key in ("name", "persona", "instructions", "model", "voice", "size")}
    return {"bot": bot, "tab": "settings", **choices(offer), "form": form, "problem": problem}
