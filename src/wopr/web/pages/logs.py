"""What a bot wrote: live, filtered by the address, to download."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from starlette.responses import Response

from wopr.client import ApiError
from wopr.client.fleet import LogLine
from wopr.client.logwords import log_words
from wopr.web.formats import iso
from wopr.web.proxy import pass_stream
from wopr.web.visit import Guest, Member

router = APIRouter()
LINES_SHOWN = 300
LINES_DOWNLOADED = 10_000


@router.get("/bots/{bot_id}/logs")
async def logs(visit: Member, bot_id: str, q: str = "", stream: str = "") -> Response:
    """The last lines; the script adds what follows."""
    bot = await visit.api.fleet.bot(bot_id)
    try:
        lines = await visit.api.fleet.logs(bot_id, LINES_SHOWN)
        problem = None
    except ApiError as error:
        if error.status in (401, 404):
            raise
        lines, problem = [], error
    values = {"bot": bot, "tab": "logs", "lines": chosen(lines, q, stream), "q": q, "stream": stream, "away": problem}
    return visit.page("pages/logs.html", values)


@router.get("/bots/{bot_id}/logs/stream")
async def follow(visit: Guest, bot_id: str) -> Response:
    """Lines as they are written; the page's script leaves out those it has."""
    params: dict[str, str | int | None] = {"tail": LINES_SHOWN, "follow": "true"}
    return await pass_stream(visit.api, f"/fleet/bots/{bot_id}/logs", params=params)


@router.get("/bots/{bot_id}/logs/download")
async def download(visit: Guest, bot_id: str, q: str = "", stream: str = "") -> Response:
    """The same lines as a file of text."""
    lines = chosen(await visit.api.fleet.logs(bot_id, LINES_DOWNLOADED), q, stream)
    text = "".join(f"{iso(line.at)} {line.stream:<6} {line.text}\n" for line in lines)
    headers = {"content-disposition": f'attachment; filename="bot-{bot_id[:8]}.log"'}
    return Response(text, media_type="text/plain; charset=utf-8", headers=headers)


def chosen(lines: Sequence[LogLine], query: str, stream: str) -> list[LogLine]:
    """The lines whose words contain the query, of one stream or of both."""
    wanted = query.strip().lower()
    return [line for line in lines if wanted in log_words(line.text).lower() and stream in ("", line.stream)]
