"""Requests and answers: sends with the caller's identity, turns refusals into `ApiError`, keeps cookies apart.

One pool of connections may serve many people (the UI does that), so the pool itself never stores a cookie.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict

from wopr.client.errors import UNREACHABLE_STATUS, ApiError, error_from_body

TIMEOUT_SECONDS = 15.0
CONNECT_TIMEOUT_SECONDS = 3.0
CONNECTIONS_MAX = 4000  # An open stream holds one, and many people may read at once.


class Answer(BaseModel):
    """Base of everything that is parsed from the API: immutable, and unknown fields are no error."""

    model_config = ConfigDict(frozen=True, extra="ignore")


ModelT = TypeVar("ModelT", bound=BaseModel)
Json = Mapping[str, Any]  # Any: what json.dumps takes


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request is made: a key of the API, or what a browser sent to the UI."""

    key: str | None = None
    cookie: str | None = None
    origin: str | None = None
    forwarded_for: str | None = None
    user_agent: str | None = None

    def headers(self) -> dict[str, str]:
        """The request headers that carry this identity to the API."""
        named = {
            "authorization": f"Bearer {self.key}" if self.key else None,
            "cookie": self.cookie,
            "origin": self.origin,
            "x-forwarded-for": self.forwarded_for,
            "user-agent": self.user_agent,
        }
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True, slots=True)
class Sending:
    """What goes out besides method and path."""

    json: Json | None = None
    content: bytes | None = None
    params: Mapping[str, str | int | None] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float | None = None


def shared_http(base_url: str, through: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """A pool for one base address that never keeps a cookie: two people's requests must not mix.

    `through` is another way there than by this machine's own names and roots.
    """
    timeout = httpx.Timeout(TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
    limits = httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=50)
    jar = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
    verify = _trusted() if through is None else True  # the way has its own
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=timeout,
        limits=limits,
        cookies=jar,
        trust_env=False,
        verify=verify,
        transport=through,
    )


class Transport:
    """Sends requests for one caller; `set_cookies` collects what the API wants stored in the caller's browser."""

    def __init__(self, http: httpx.AsyncClient, caller: Caller) -> None:
        self.http = http
        self.caller = caller
        self.set_cookies: list[str] = []

    async def request(self, method: str, path: str, sending: Sending | None = None) -> httpx.Response:
        """The answer when it is 2xx; raises `ApiError` for anything else, also when nobody answers."""
        try:
            response = await self.http.send(self._build(method, path, sending or Sending()))
        except httpx.HTTPError as error:
            raise _unreachable(error, str(self.http.base_url)) from error
        self.set_cookies += response.headers.get_list("set-cookie")
        if response.is_success:
            return response
        raise error_from_body(response.status_code, response.content, response.headers.get("retry-after"))

    @asynccontextmanager
    async def stream(self, method: str, path: str, sending: Sending | None = None) -> AsyncIterator[httpx.Response]:
        """Like `request`, but the body is read by the caller while it arrives, without a limit on silence."""
        built = self._build(method, path, sending or Sending(), httpx.Timeout(None, connect=CONNECT_TIMEOUT_SECONDS))
        try:
            response = await self.http.send(built, stream=True)
        except httpx.HTTPError as error:
            raise _unreachable(error, str(self.http.base_url)) from error
        try:
            if not response.is_success:
                body = await response.aread()
                raise error_from_body(response.status_code, body, response.headers.get("retry-after"))
            yield response
        finally:
            await response.aclose()

    async def get(self, path: str, model: type[ModelT], **params: str | int | None) -> ModelT:
        """GET and parse; parameters that are None are left out."""
        return parse(await self.request("GET", path, Sending(params=params)), model)

    async def post(
        self, path: str, model: type[ModelT], body: Json | None = None, *, once: str | None = None
    ) -> ModelT:
        """POST JSON and parse the answer. `once` is sent as Idempotency-Key: see `once_header`."""
        return parse(await self.request("POST", path, Sending(json=body or {}, headers=once_header(once))), model)

    def _build(self, method: str, path: str, sending: Sending, timeout: httpx.Timeout | None = None) -> httpx.Request:
        params = {name: value for name, value in sending.params.items() if value is not None}
        if timeout is None:
            timeout = httpx.Timeout(sending.timeout_seconds or TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
        return self.http.build_request(
            method,
            path,
            json=sending.json,
            content=sending.content,
            params=params or None,
            headers={**self.caller.headers(), **sending.headers},
            timeout=timeout,
        )


def once_header(once: str | None) -> dict[str, str]:
    """The header with which a request may be repeated: the API does it once and gives the same answer again."""
    return {} if once is None else {"idempotency-key": once}


def parse(response: httpx.Response, model: type[ModelT]) -> ModelT:
    """Parse at the edge; an answer of another shape is the API's fault and says which field is wrong."""
    try:
        return model.model_validate_json(response.content)
    except ValueError as error:
        raise ApiError(
            502, "unexpected_answer", f"{response.request.url.path} answered in an unknown shape: {error}"
        ) from error


@cache
def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted; reading them takes longer than a request, so once is enough."""
    return httpx.create_ssl_context(trust_env=False)


def _unreachable(error: httpx.HTTPError, base_url: str) -> ApiError:
    what = str(error) or type(error).__name__
    return ApiError(
        UNREACHABLE_STATUS,
        "api_unreachable",
        f"The API at {base_url} does not answer ({what}).",
        "Start it with `wopr up`, or check the address.",
    )
