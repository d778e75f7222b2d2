"""Making a bot: a character to start from, a name, and what can be left as it is."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Form
from pydantic import BaseModel
from starlette.responses import Response

from wopr.client import ApiError
from wopr.client.fleet import Template
from wopr.client.inference import Models
from wopr.web.once import new_mark, once_key
from wopr.web.rendering import redirect
from wopr.web.visit import Member, Visit

router = APIRouter()
VOICES = {
    "rms": "Ross, calm",
    "slt": "Sarah, bright",
    "awb": "Alan, Scottish",
    "kal": "Kal, a robot",
    "kal16": "Kal, a clearer robot",
}


class CharacterForm(BaseModel):
    """What the forms of a new bot and of its settings send."""

    name: str = ""
    template: str = ""
    persona: str = ""
    instructions: str = ""
    model: str = ""
    voice: str = ""
    size: str = ""


class NewBotForm(CharacterForm):
    """The same with the mark of the form that was shown."""

    once: str = ""


@router.get("/bots/new")
async def empty(visit: Member, template: str = "") -> Response:
    """The form, filled from a template."""
    return visit.page("pages/new_bot.html", await _choices(visit, {"template": template}))


@router.get("/bots/new/character")
async def character(visit: Member, template: str = "") -> Response:
    """The fields that a template fills, for the page to renew when another one is picked."""
    return visit.page("parts/character.html", await _choices(visit, {"template": template}))


@router.post("/bots/new")
async def create(visit: Member, form: Annotated[NewBotForm, Form()]) -> Response:
    """Make it and go to its chat; on refusal the form stays as it was typed."""
    typed = {name: value.strip() for name, value in form.model_dump(exclude={"once"}).items()}
    once = once_key(form.once, *typed.values())
    try:
        bot = await visit.api.fleet.create({key: value for key, value in typed.items() if value}, once=once)
    except ApiError as error:
        if error.unreachable or error.status == 401:
            raise
        return visit.page("pages/new_bot.html", await _choices(visit, typed, problem=error), error.status)
    return redirect(f"/bots/{bot.id}", "bot-created")


def choices(offer: Models) -> dict[str, Any]:
    """The models and voices to choose from, as the forms show them."""
    voices = offer.voices or list(VOICES)
    return {
        "models": [model for model in offer.models if model.kind == "chat"],
        "voices": [(voice, VOICES.get(voice, voice)) for voice in voices],
    }


async def _choices(visit: Visit, typed: dict[str, str], problem: ApiError | None = None) -> dict[str, Any]:
    templates, offer = await asyncio.gather(visit.api.fleet.templates(), visit.api.inference.offer())
    picked = _picked(templates, typed.get("template", ""))
    filled = {
        "name": typed.get("name", ""),
        "template": picked.id if picked else "",
        "persona": typed.get("persona") or (picked.persona if picked else "") or "",
        "instructions": typed.get("instructions") or (picked.instructions if picked else "") or "",
        "model": typed.get("model") or (picked.model if picked else "") or "",
        "voice": typed.get("voice") or (picked.voice if picked else "") or "",
        "size": typed.get("size") or "standard",
    }
    return {
        "templates": templates,
        **choices(offer),
        "form": filled,
        "once": new_mark(),
        "problem": problem,
        "needs_credit": visit.billing is not None and not visit.billing.may_begin,
    }


def _picked(templates: list[Template], wanted: str) -> Template | None:
    return next((one for one in templates if one.id == wanted), templates[0] if templates else None)
