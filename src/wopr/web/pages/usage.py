"""What a bot used: every metered request, answer by answer, with its receipt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from fastapi import APIRouter
from starlette.responses import Response

from wopr.client.billing import Usage
from wopr.web.visit import Member

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Answered:
    """The requests of one turn together; a request outside of any turn stands alone."""

    turn_id: str | None
    started_at: datetime | None
    lines: Sequence[Usage]
    total_usd: Decimal
    tokens: int
    models: Sequence[str]


@router.get("/bots/{bot_id}/usage")
async def usage(visit: Member, bot_id: str, cursor: str = "") -> Response:
    """Answers with their receipts, newest first."""
    bot = await visit.api.fleet.bot(bot_id)
    page = await visit.api.fleet.usage(bot_id, cursor or None)
    values = {"bot": bot, "tab": "usage", "usage": page, "answers": by_turn(page.usage), "cursor": cursor}
    return visit.page("pages/usage.html", values)


def by_turn(lines: Sequence[Usage]) -> list[Answered]:
    """Group the lines by turn, in the order in which the turns first appear."""
    groups: dict[str, list[Usage]] = {}
    for line in lines:
        groups.setdefault(line.turn_id or line.request_id, []).append(line)
    return [_answered(group) for group in groups.values()]


def _answered(lines: Sequence[Usage]) -> Answered:
    return Answered(
        turn_id=lines[0].turn_id,
        started_at=min((line.started_at for line in lines if line.started_at), default=None),
        lines=lines,
        total_usd=sum((line.cost_usd for line in lines), Decimal(0)),
        tokens=sum(line.prompt_tokens + line.completion_tokens for line in lines),
        models=list(dict.fromkeys(line.model for line in lines)),
    )
