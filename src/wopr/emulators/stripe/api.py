"""The `/v1` routes: authentication, decoding, idempotency keys, expansion, and errors in Stripe's shape."""

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response

from wopr.emulators.documents import Answer, Document
from wopr.emulators.stripe import (
    catalog,
    checkout,
    customers,
    events,
    invoices,
    payments,
    portal,
    refunds,
    subscriptions,
    timeline,
)
from wopr.emulators.stripe.calls import Call, Endpoint, rendered
from wopr.emulators.stripe.errors import StripeError, idempotency_conflict, invalid, unauthenticated
from wopr.emulators.stripe.settings import API_VERSION
from wopr.emulators.stripe.wire import decode, read
from wopr.emulators.stripe.world import Origin, World, new_id

_MODULES = (catalog, customers, checkout, portal, subscriptions, invoices, payments, refunds, events, timeline)
ENDPOINTS: tuple[Endpoint, ...] = tuple(endpoint for module in _MODULES for endpoint in module.ENDPOINTS)
_KEY_LIFE_SECONDS = 24 * 3600
_KEY_LENGTH_MAX = 255
_BODY_BYTES_MAX = 1_000_000


@dataclass(frozen=True)
class Incoming:
    """What arrived: the endpoint it is for, its path and decoded fields, and its idempotency key, if any."""

    endpoint: Endpoint
    path: dict[str, str]
    raw: Document
    key: str | None
    request_id: str


def router(world: World, after_change: Callable[[], None]) -> APIRouter:
    """All endpoints; `after_change` is called after each change, to get its events delivered."""
    routes = APIRouter(include_in_schema=False)
    for endpoint in ENDPOINTS:
        routes.add_api_route(endpoint.path, _handler(world, endpoint, after_change), methods=[endpoint.method])
    return routes


def refused(error: StripeError, request_id: str) -> Response:
    """The answer to a request that is refused."""
    body = error.error | {"request_log_url": f"https://dashboard.stripe.com/test/logs/{request_id}"}
    return _response(error.status, json.dumps({"error": body}, indent=2), request_id)


def unrecognized(request: Request) -> StripeError:
    """The refusal of an address that does not exist."""
    where = f"{request.method}: {request.url.path}"
    text = f"Unrecognized request URL ({where}). Please see https://stripe.com/docs or we can help at https://support.stripe.com/."
    return invalid(text, status=404)


def _handler(
    world: World, endpoint: Endpoint, after_change: Callable[[], None]
) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        request_id = new_id("req")
        try:
            _authenticate(request, world.settings.secret_key)
            raw = decode(await _fields(request))
            incoming = Incoming(endpoint, dict(request.path_params), raw, _key(request), request_id)
            response = _answer(world, incoming)
        except StripeError as error:
            return refused(error, request_id)
        if request.method != "GET":
            after_change()
        return response

    return handle


def _answer(world: World, incoming: Incoming) -> Response:
    if incoming.endpoint.method == "GET" or incoming.key is None:
        return _response(200, _perform(world, incoming), incoming.request_id)
    fingerprint = _fingerprint(incoming)
    now = int(time.time())
    known = world.documents.answer(incoming.key, now - _KEY_LIFE_SECONDS)
    if known is not None:
        if known.fingerprint != fingerprint:
            raise idempotency_conflict(incoming.key)
        response = _response(known.status, known.body, incoming.request_id)
        response.headers["idempotent-replayed"] = "true"
        return response
    with world.documents.transaction():
        body = _perform(world, incoming)
        # Stored together with the effect. Refusals of malformed requests are not kept, as at Stripe.
        world.documents.keep_answer(incoming.key, Answer(fingerprint, 200, body), now)
    return _response(200, body, incoming.request_id)


def _perform(world: World, incoming: Incoming) -> str:
    params = read(incoming.endpoint.accepts, incoming.raw)
    world.origin = Origin(incoming.request_id, incoming.key)
    world.emitted.clear()
    try:
        with world.documents.transaction():
            result = incoming.endpoint.run(world, Call(incoming.path, params))
            return json.dumps(rendered(world, result, params.get("expand")), indent=2)
    finally:
        world.origin = Origin()


def _authenticate(request: Request, expected: str | None) -> None:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    key = credentials.strip()
    if scheme.lower() == "basic":
        try:
            key = base64.b64decode(key, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            key = ""
    if not key or scheme.lower() not in ("basic", "bearer"):
        raise unauthenticated(
            "You did not provide an API key. You need to provide your API key in the Authorization header, "
            "using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY')."
        )
    known = key == expected if expected else key.startswith(("sk_test_", "rk_test_"))
    if not known:
        shown = f"{key[:8]}{'*' * max(4, len(key) - 12)}{key[-4:] if len(key) > 12 else ''}"
        raise unauthenticated(f"Invalid API Key provided: {shown}")


async def _fields(request: Request) -> list[tuple[str, str]]:
    fields = parse_qsl(request.url.query, keep_blank_values=True)
    if request.method == "GET":
        return fields
    body = await request.body()
    if len(body) > _BODY_BYTES_MAX:
        raise invalid("The request is too large.", status=413)
    kind = request.headers.get("content-type", "application/x-www-form-urlencoded").partition(";")[0].strip().lower()
    if body and kind != "application/x-www-form-urlencoded":
        raise invalid(f"Invalid request: the content type must be application/x-www-form-urlencoded, not {kind}.")
    try:
        return fields + parse_qsl(body.decode(), keep_blank_values=True)
    except UnicodeDecodeError:
        raise invalid("Invalid UTF-8 in the request.") from None


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and len(key) > _KEY_LENGTH_MAX:
        raise invalid(f"The idempotency key is too long; at most {_KEY_LENGTH_MAX} characters are allowed.")
    return key or None


def _fingerprint(incoming: Incoming) -> str:
    parts = [incoming.endpoint.method, incoming.endpoint.path, incoming.path, incoming.raw]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _response(status: int, body: str, request_id: str) -> Response:
    headers = {"request-id": request_id, "stripe-version": API_VERSION}
    return Response(body, status, headers, "application/json")
