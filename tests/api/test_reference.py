"""The page `/docs`: whole, from our own machine alone, and the errors that it tells are those that are answered."""

import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest

from wopr.core.reference import STYLE, STYLE_HASH, render
from wopr.core.settings import Settings
from wopr.main import build_api


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The API without a database: neither document needs one."""
    api = build_api(Settings(wopr_home=tmp_path, database_url="postgresql://nobody@localhost:1/none"), "head")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
        yield client


async def test_the_page_needs_nobody_else_and_runs_no_script(http: httpx.AsyncClient) -> None:
    page = await http.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?([^"'>\s)]+)""", page.text)
    assert addresses
    assert all(address.startswith(("#", "/openapi.json")) for address in addresses)
    assert "<script" not in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert f"'sha256-{STYLE_HASH}'" in policy
    assert f"<style>{STYLE}</style>" in page.text
    assert " style=" not in page.text, "an attribute would be blocked by the policy"


async def test_every_operation_and_every_field_of_a_body_is_told(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    page = unescape((await http.get("/docs")).text)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f'id="{operation["operationId"]}"' in page
            assert f"{method.upper()} {path}" in page
    for name, schema in document["components"]["schemas"].items():
        assert f'id="schema-{name}"' in page
        assert all(f"<code>{field}</code>" in page for field in schema.get("properties", {}))
    anchors = set(re.findall(r' id="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= anchors


async def test_errors_are_specified_as_they_are_answered(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert "HTTPValidationError" not in document["components"]["schemas"], "no answer of ours looks like that"
    for methods in document["paths"].values():
        for operation in methods.values():
            told = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert told == {"$ref": "#/components/schemas/ErrorAnswer"}
    fields = set(document["components"]["schemas"]["ErrorBody"]["properties"])
    for refused in (
        await http.post("/api/auth/sign-up", json={}),
        await http.post("/api/auth/sign-up", content=b"{" * 9, headers={"content-type": "application/json"}),
        await http.post("/api/auth/sign-up", content=b"[" * 90_000, headers={"content-type": "application/json"}),
        await http.get("/nowhere"),
        await http.put("/health"),
        await http.get("/api/auth/session"),
    ):
        assert 400 <= refused.status_code < 500
        error = refused.json()["error"]
        assert set(error) == fields
        assert error["remedy"], refused.text


def test_words_of_the_specification_are_shown_as_text() -> None:
    hostile: dict[str, Any] = {
        "info": {"title": "<script>", "version": "1"},
        "paths": {"/x<y>": {"get": {"operationId": "o", "description": "`<b>` <img src=x>", "responses": {}}}},
    }
    page = render(hostile)
    assert "<script>" not in page
    assert "<img" not in page
    assert "<code>&lt;b&gt;</code>" in page
    assert "/x<y>" not in page
