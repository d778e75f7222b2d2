"""The page on which the mails are read, and `/_emulator/` for tests: mails as JSON, and refusals on demand."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field

from wopr.emulators.documents import Document, Documents
from wopr.emulators.pages import page
from wopr.emulators.resend.errors import ResendError
from wopr.emulators.resend.mails import links, sent_to, shown

_SHOWN = 200
_REFUSALS = "refusals"
_REFUSED = {
    429: ("rate_limit_exceeded", "Too many requests. You can only make 2 requests per second."),
    500: ("application_error", "An unexpected error occurred."),
    503: ("application_error", "The service is not available."),
}
# The mail is somebody's HTML: it may look like anything but run nothing and load nothing.
_MAIL_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox allow-popups allow-popups-to-escape-sandbox"
)


class RefusalRequest(BaseModel):
    """How the next sends shall fail."""

    status: int = 429
    times: int = Field(default=1, ge=0, le=10_000)


def refuse_if_told(store: Documents) -> None:
    """Raise the refusal that was ordered, and count it down."""
    status, _, left = store.note(_REFUSALS).partition(" ")
    if not status or int(left) == 0:
        return
    with store.transaction():
        store.set_note(_REFUSALS, f"{status} {int(left) - 1}")
    raise ResendError(int(status), *_REFUSED[int(status)])


def router(store: Documents) -> APIRouter:
    """The routes."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def mailbox(request: Request, to: str | None = None) -> HTMLResponse:
        return page(request, "resend_mailbox.html", {"mails": sent_to(store, to or None, _SHOWN), "to": to or ""})

    @routes.get("/mails/{mail_id}")
    async def mail(request: Request, mail_id: str) -> HTMLResponse:
        found = store.get(mail_id, "email")
        if found is None:
            return page(request, "missing.html", {"what": "This mail"}, 404)
        return page(request, "resend_mail.html", {"mail": found, "links": links(found)})

    @routes.get("/mails/{mail_id}/html")
    async def body(mail_id: str) -> Response:
        found = store.get(mail_id, "email")
        html = (found or {}).get("html") or ""
        return HTMLResponse(
            f'<base target="_blank">{html}', 200 if html else 404, {"content-security-policy": _MAIL_POLICY}
        )

    @routes.get("/_emulator/mails")
    async def mails(to: str | None = None, limit: int = _SHOWN) -> Document:
        found = sent_to(store, to, max(1, min(limit, 1000)))
        return {"mails": [shown(m) | {"links": links(m), "headers": m["_headers"]} for m in found]}

    @routes.delete("/_emulator/mails", status_code=204)
    async def clear() -> None:
        with store.transaction():
            for found in sent_to(store, None, 1_000_000):
                store.remove(found["id"])

    @routes.post("/_emulator/refuse")
    async def refuse(wanted: RefusalRequest) -> JSONResponse:
        if wanted.status not in _REFUSED:
            return JSONResponse({"error": {"message": f"status must be one of {sorted(_REFUSED)}"}}, 400)
        with store.transaction():
            store.set_note(_REFUSALS, f"{wanted.status} {wanted.times}")
        return JSONResponse({"status": wanted.status, "times": wanted.times})

    return routes
