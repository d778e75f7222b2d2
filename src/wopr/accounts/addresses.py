"""E-mail addresses in one spelling, so that one person has one account."""

import re

from wopr.core.errors import Invalid

EMAIL_CHARACTERS_MAX = 254
LOCAL_CHARACTERS_MAX = 64
LOCAL_PART = re.compile(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]+")
DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")


def normalise(email: str) -> str:
    """The address in lower case, its domain in ASCII (IDNA); Invalid when it is none.

    The rule is the one of the HTML standard for `<input type=email>`, so that the page and the API agree.
    """
    local, at, domain = email.strip().lower().rpartition("@")
    try:
        ascii_domain = domain.encode("idna").decode("ascii")
    except UnicodeError:
        ascii_domain = ""
    whole = f"{local}@{ascii_domain}"
    good = at and LOCAL_PART.fullmatch(local) and DOMAIN.fullmatch(ascii_domain)
    if not good or len(whole) > EMAIL_CHARACTERS_MAX or len(local) > LOCAL_CHARACTERS_MAX:
        raise Invalid("This is not an e-mail address.", code="bad_email", remedy="Write it like name@example.com.")
    return whole
