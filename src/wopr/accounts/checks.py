"""Checks of the way out for mail, for `wopr check`."""

from collections.abc import Sequence
from email.utils import parseaddr

import httpx

from wopr.core.settings import Settings
from wopr.ops.checks import Check, Finding, failed, ok, skipped, warning

ASK_SECONDS = 8.0
VERIFIED = "verified"


def checks(settings: Settings) -> Sequence[Check]:
    """Every check of mail that needs no database."""

    async def domain() -> Finding:
        return await mail_domain(settings)

    return [Check("mail.domain", "the domain that mail comes from is verified", domain)]


async def mail_domain(settings: Settings) -> Finding:
    """Resend refuses mail from a domain that it has not verified: nobody could sign up."""
    if settings.resend_api_key is None:
        return skipped("RESEND_API_KEY is not set" + ("; mail goes by SMTP" if settings.smtp_url else ""))
    sender = parseaddr(settings.mail_from)[1].rpartition("@")[2].lower()
    headers = {"authorization": f"Bearer {settings.resend_api_key.get_secret_value()}"}
    try:
        async with httpx.AsyncClient(timeout=ASK_SECONDS) as http:
            answer = await http.get(settings.resend_api_base.rstrip("/") + "/domains", headers=headers)
    except httpx.HTTPError as error:
        return failed(f"Resend does not answer: {error or type(error).__name__}", "https://resend-status.com")
    if answer.status_code in (401, 403):
        # A key that may only send is the better one to have, and can't be asked this.
        if "restricted" in answer.text:
            return skipped("the key may only send: look at the domain in Resend's dashboard")
        return failed("Resend refuses RESEND_API_KEY", "Make a key in Resend's dashboard and set RESEND_API_KEY.")
    if not answer.is_success:
        return failed(f"Resend answered {answer.status_code}", "Try again; https://resend-status.com")
    states = {str(one.get("name", "")).lower(): str(one.get("status", "")) for one in answer.json().get("data", [])}
    above = [name for name in states if sender == name or sender.endswith("." + name)]
    if any(states[name] == VERIFIED for name in above):
        return ok(f"{sender} is verified")
    if above:
        says = f"{above[0]} is {states[above[0]]}"
        return warning(says, f"Set the DNS records that Resend shows for {above[0]}, then verify it there.")
    return failed(f"Resend does not know {sender}, the domain of MAIL_FROM", f"Add {sender} in Resend's dashboard.")
