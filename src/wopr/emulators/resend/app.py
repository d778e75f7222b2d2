"""The Resend stand-in as an application: the API, the page of mails, and a look inside for tests."""

import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from wopr.emulators.documents import Answer, Document, Documents, Query
from wopr.emulators.pages import mount_static
from wopr.emulators.resend import domains, inbox, mails
from wopr.emulators.resend.errors import ResendError, invalid_parameter, not_found
from wopr.emulators.resend.settings import ResendSettings

_BATCH_MAX = 100
_KEY_LIFE_SECONDS = 24 * 3600
_KEY_LENGTH_MAX = 256
_BODY_BYTES_MAX = 40_000_000  # Resend's own limit of a mail with its attachments


def build_resend(settings: ResendSettings | None = None) -> FastAPI:
    """The application; the mails are in `settings.state` and survive a kill of the process."""
    chosen = settings or ResendSettings()
    store = Documents(chosen.state)
    with store.transaction():
        domains.seed(store, chosen.verified_domains)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        store.close()

    app = FastAPI(title="Resend stand-in", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.documents = store
    _add_edges(app)
    app.include_router(_emails(store, chosen))
    app.include_router(_domains(store, chosen))
    app.include_router(inbox.router(store))
    mount_static(app)
    return app


def _emails(store: Documents, settings: ResendSettings) -> APIRouter:
    routes = APIRouter(prefix="/emails", include_in_schema=False)

    @routes.post("")
    async def send(request: Request) -> Response:
        body = await _authorized_body(request, settings)
        return _once(store, request, body, lambda: {"id": mails.accept(store, settings, body)["id"]})

    @routes.post("/batch")
    async def send_batch(request: Request) -> Response:
        body = await _authorized_body(request, settings)
        if not isinstance(body, list) or not 1 <= len(body) <= _BATCH_MAX:
            raise invalid_parameter(f"The request body must be an array of 1 to {_BATCH_MAX} emails.")
        return _once(
            store, request, body, lambda: {"data": [{"id": mails.accept(store, settings, m)["id"]} for m in body]}
        )

    @routes.get("")
    async def listed(request: Request, limit: int = 20) -> Document:
        _authorize(request, settings)
        found = store.select(Query("email", limit=max(1, min(limit, 100)) + 1))
        return {"object": "list", "has_more": len(found) > limit, "data": [mails.shown(m) for m in found[:limit]]}

    @routes.get("/{mail_id}")
    async def retrieve(request: Request, mail_id: str) -> Document:
        _authorize(request, settings)
        mail = store.get(mail_id, "email")
        if mail is None:
            raise not_found("Email")
        return mails.shown(mail)

    return routes


def _domains(store: Documents, settings: ResendSettings) -> APIRouter:
    routes = APIRouter(prefix="/domains", include_in_schema=False)

    @routes.get("")
    async def listed(request: Request) -> Document:
        _authorize(request, settings)
        found = store.select(Query("domain", limit=1000))
        shown = [{k: v for k, v in domain.items() if k not in ("records", "object")} for domain in found]
        return {"object": "list", "has_more": False, "data": shown}

    @routes.post("", status_code=201)
    async def create(request: Request) -> Document:
        body = await _authorized_body(request, settings)
        with store.transaction():
            return domains.create(store, body)

    @routes.get("/{domain_id}")
    async def retrieve(request: Request, domain_id: str) -> Document:
        _authorize(request, settings)
        return domains.find(store, domain_id)

    @routes.post("/{domain_id}/verify")
    async def verify(request: Request, domain_id: str) -> Document:
        _authorize(request, settings)
        return {"object": "domain", "id": domains.verify(store, domain_id)["id"]}

    @routes.delete("/{domain_id}")
    async def delete(request: Request, domain_id: str) -> Document:
        _authorize(request, settings)
        store.remove(domains.find(store, domain_id)["id"])
        return {"object": "domain", "id": domain_id, "deleted": True}

    return routes


def _once(store: Documents, request: Request, body: object, act: Callable[[], Document]) -> Response:
    """Do it, or answer as before when the same request comes again under the same idempotency key."""
    inbox.refuse_if_told(store)
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= _KEY_LENGTH_MAX:
        raise ResendError(400, "invalid_idempotency_key", "The key must be between 1-256 chars.")
    if key is None:
        with store.transaction():
            return JSONResponse(act())
    fingerprint = hashlib.sha256(json.dumps([request.url.path, body], sort_keys=True).encode()).hexdigest()
    now = int(time.time())
    known = store.answer(key, now - _KEY_LIFE_SECONDS)
    if known is None:
        with store.transaction():
            known = Answer(fingerprint, 200, json.dumps(act()))
            store.keep_answer(key, known, now)
    elif known.fingerprint != fingerprint:
        text = "Same idempotency key used with a different request payload. Change your idempotency key or payload."
        raise ResendError(409, "invalid_idempotent_request", text)
    return Response(known.body, known.status, media_type="application/json")


async def _authorized_body(request: Request, settings: ResendSettings) -> object:
    _authorize(request, settings)
    raw = await request.body()
    if len(raw) > _BODY_BYTES_MAX:
        raise ResendError(413, "validation_error", "The email is larger than 40 MB.")
    try:
        parsed: object = json.loads(raw)
    except ValueError:
        raise ResendError(400, "validation_error", "The request body is not valid JSON.") from None
    return parsed


def _authorize(request: Request, settings: ResendSettings) -> None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise ResendError(401, "missing_api_key", "Missing API Key")
    known = key.strip() == settings.api_key if settings.api_key else key.strip().startswith("re_")
    if not known:
        raise ResendError(403, "invalid_api_key", "API key is invalid")


def _add_edges(app: FastAPI) -> None:
    @app.exception_handler(ResendError)
    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, ResendError)
        headers = {"retry-after": "1", "ratelimit-limit": "2", "ratelimit-remaining": "0", "ratelimit-reset": "1"}
        content = {"statusCode": error.status, "name": error.name, "message": str(error)}
        return JSONResponse(content, error.status, headers if error.status == 429 else None)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        name = "method_not_allowed" if status == 405 else "not_found"
        text = (
            "Method is not allowed for the requested path."
            if status == 405
            else "The requested endpoint does not exist."
        )
        return JSONResponse({"statusCode": status, "name": name, "message": text}, status)

    @app.get("/health", include_in_schema=False)
    async def health() -> dict[str, str]:
        return {"status": "ok"}
