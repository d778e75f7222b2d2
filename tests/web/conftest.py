"""The UI against the fake API, both in this process: no socket, no database."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_api import build_fake_api
from fake_data import Store, full_store
from stage import chromium, stage

from wopr.core.settings import Settings
from wopr.web import build_web

__all__ = ["browser", "chromium", "stage", "store"]
UI = "http://localhost:3000"


@pytest.fixture
def store() -> Store:
    store = full_store()
    store.ui_origin = UI
    return store


@pytest.fixture
async def browser(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    """A browser with a session, as far as headers go: cookies are kept, Origin is sent with forms."""
    app = build_web(Settings(api_url="http://api.test", ui_url=UI, stripe_api_base="http://127.0.0.1:4101"))
    site = app.state.site
    site.http._transport = httpx.ASGITransport(build_fake_api(store))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=UI, headers={"origin": UI}) as client:
        client.cookies.set("wopr_session", store.session)
        yield client
    await site.http.aclose()
