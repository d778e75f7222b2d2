"""How requests are read and lists are answered: JSON bodies, pages with links."""

import json
from collections.abc import Sequence
from urllib.parse import urlencode

from fastapi import Request

from wopr.emulators.digitalocean.errors import malformed
from wopr.emulators.digitalocean.world import World
from wopr.emulators.documents import Document

_PER_PAGE, _PER_PAGE_MAX = 20, 200
_BODY_BYTES_MAX = 1_000_000


async def body_of(request: Request) -> Document:
    """The JSON object that came with a request."""
    raw = await request.body()
    if len(raw) > _BODY_BYTES_MAX:
        raise malformed("The request is too large.")
    try:
        body = json.loads(raw)
    except ValueError:
        raise malformed("The request body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise malformed("The request body must be a JSON object.")
    return body


def page(world: World, request: Request, name: str, items: Sequence[Document]) -> Document:
    """The part of a list that was asked for, with links to the others. A list on one page has no links."""
    per_page = min(_number(request, "per_page", _PER_PAGE), _PER_PAGE_MAX)
    wanted = _number(request, "page", 1)
    last = max(1, -(-len(items) // per_page))
    links = {}
    if wanted > 1:
        links |= {"first": 1, "prev": wanted - 1}
    if wanted < last:
        links |= {"next": wanted + 1, "last": last}
    others = {k: v for k, v in request.query_params.items() if k not in ("page", "per_page")}
    address = f"{world.base_url}{request.url.path}"
    pages = {rel: f"{address}?{urlencode({**others, 'page': n, 'per_page': per_page})}" for rel, n in links.items()}
    chosen = list(items[(wanted - 1) * per_page : wanted * per_page])
    return {name: chosen, "links": {"pages": pages} if pages else {}, "meta": {"total": len(items)}}


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isdecimal() and int(text) > 0 else default
