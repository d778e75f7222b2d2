"""Coming in: sign-up, confirmation of the address, sign-in, a new password, the administrator's link, signing out.

Links in mails lead to a page with a button (pressed by a script where there is one): programs that read mail follow
links, and must not use up one that works only once.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote, unquote

from fastapi import APIRouter, Form
from starlette.responses import Response

from wopr.client import ApiError
from wopr.web.rendering import local_path, redirect
from wopr.web.visit import Guest, Visit

router = APIRouter()
Field = Annotated[str, Form()]
PASSWORD_CHARS_MIN = 12
# Whom a mail was sent to and why, for the page after the form: in an address it would be in histories and logs.
MAIL_COOKIE = "wopr_mail"
MAIL_COOKIE_SECONDS = 3600


@router.get("/sign-up")
async def sign_up_form(visit: Guest, email: str = "") -> Response:
    """An empty form."""
    return visit.page("pages/sign_up.html", {"email": email, "name": ""})


@router.post("/sign-up")
async def sign_up(visit: Guest, email: Field = "", password: Field = "", name: Field = "") -> Response:
    """Ask for an account; the answer never tells whether the address is known."""
    try:
        await visit.api.accounts.sign_up(email.strip(), password, name.strip() or None)
    except ApiError as error:
        return _again(visit, error, "pages/sign_up.html", email=email, name=name)
    return _sent(visit, "verify", email)


@router.get("/check-mail")
async def check_mail(visit: Guest) -> Response:
    """After a form that sends a mail, so that a reload sends none; tells nobody whether the address is known."""
    why, _, email = visit.request.cookies.get(MAIL_COOKIE, "").partition(":")
    if why not in ("verify", "reset") or not email:
        return redirect("/sign-in")
    return visit.page("pages/check_mail.html", {"email": unquote(email), "why": why})


@router.post("/verify/resend")
async def resend(visit: Guest, email: Field = "", back: Field = "") -> Response:
    """The confirmation again; from a page behind the sign-in, back to it."""
    try:
        await visit.api.accounts.resend_verification(email.strip())
    except ApiError as error:
        return _again(visit, error, "pages/check_mail.html", email=email, why="verify")
    if back:
        return redirect(local_path(back), "resent")
    return _sent(visit, "verify", email, "resent")


@router.get("/verify")
async def verify_form(visit: Guest, token: str = "") -> Response:
    """Where the confirmation link leads."""
    return visit.page("pages/confirm_link.html", {"token": token, "kind": "verify"})


@router.post("/verify")
async def verify(visit: Guest, token: Field = "") -> Response:
    """Use the link up; signs in."""
    try:
        await visit.api.accounts.verify(token)
    except ApiError as error:
        return _again(visit, error, "pages/confirm_link.html", token="", kind="verify")
    return redirect("/dashboard", "verified")


@router.get("/welcome")
async def welcome_form(visit: Guest, token: str = "") -> Response:
    """Where the administrator's single-use link leads."""
    return visit.page("pages/confirm_link.html", {"token": token, "kind": "welcome"})


@router.post("/welcome")
async def welcome(visit: Guest, token: Field = "") -> Response:
    """Use the link up; signs in."""
    try:
        identity = await visit.api.accounts.one_time(token)
    except ApiError as error:
        return _again(visit, error, "pages/confirm_link.html", token="", kind="welcome")
    return redirect("/admin" if identity.user.platform_admin else "/dashboard")


@router.get("/sign-in")
async def sign_in_form(visit: Guest, next: str = "", email: str = "") -> Response:
    """The form; `next` is where to go on afterwards."""
    return visit.page("pages/sign_in.html", {"email": email, "next": next and local_path(next)})


@router.post("/sign-in")
async def sign_in(visit: Guest, email: Field = "", password: Field = "", next: Field = "") -> Response:
    """Start a session; the API's cookie goes to the browser as it is."""
    try:
        await visit.api.accounts.sign_in(email.strip(), password)
    except ApiError as error:
        return _again(visit, error, "pages/sign_in.html", email=email, next=next and local_path(next))
    return redirect(local_path(next))


@router.post("/sign-out")
async def sign_out(visit: Guest) -> Response:
    """End this session."""
    await _end(visit, everywhere=False)
    return redirect("/sign-in", "signed-out")


@router.post("/sign-out-everywhere")
async def sign_out_everywhere(visit: Guest) -> Response:
    """End all sessions."""
    await _end(visit, everywhere=True)
    return redirect("/sign-in", "signed-out-everywhere")


@router.get("/reset-request")
async def reset_request_form(visit: Guest, email: str = "") -> Response:
    """Ask for the address."""
    return visit.page("pages/reset_request.html", {"email": email})


@router.post("/reset-request")
async def reset_request(visit: Guest, email: Field = "") -> Response:
    """Send the link, if the address is known; the answer is the same."""
    try:
        await visit.api.accounts.reset_request(email.strip())
    except ApiError as error:
        return _again(visit, error, "pages/reset_request.html", email=email)
    return _sent(visit, "reset", email)


@router.get("/reset")
async def reset_form(visit: Guest, token: str = "") -> Response:
    """Choose a new password."""
    return visit.page("pages/reset.html", {"token": token})


@router.post("/reset")
async def reset(visit: Guest, token: Field = "", password: Field = "") -> Response:
    """Set it; all sessions end."""
    try:
        await visit.api.accounts.reset(token, password)
    except ApiError as error:
        return _again(visit, error, "pages/reset.html", token=token)
    return redirect("/sign-in", "password-reset")


async def _end(visit: Visit, *, everywhere: bool) -> None:
    accounts = visit.api.accounts
    try:
        await (accounts.sign_out_everywhere() if everywhere else accounts.sign_out())
    except ApiError as error:
        if error.status != 401:  # Signed out already is what was wanted.
            raise


def _sent(visit: Visit, why: str, email: str, done: str | None = None) -> Response:
    answer = redirect("/check-mail", done)
    value = f"{why}:{quote(email.strip(), safe='')}"
    answer.set_cookie(
        MAIL_COOKIE,
        value,
        max_age=MAIL_COOKIE_SECONDS,
        path="/check-mail",
        httponly=True,
        samesite="lax",
        secure=visit.site.secure,
    )
    return answer


def _again(visit: Visit, error: ApiError, template: str, **values: str) -> Response:
    """The same form with what was typed and what was wrong; an API that is away gets its own page."""
    if error.unreachable:
        raise error
    return visit.page(template, {**values, "problem": error}, error.status)
