"""The session cookie: a random token signed with BETTER_AUTH_SECRET, so that guesses never reach the database.

The setting may list several secrets by comma: the first signs, all of them verify, which is how it is rotated.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from wopr.core.settings import Settings

COOKIE_NAME = "wopr_session"
COOKIE_CHARACTERS_MAX = 256
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
SIGNATURE_PURPOSE = b"wopr session cookie\x00"


@dataclass(frozen=True)
class CookieAttributes:
    """How the cookie is set; `domain` None binds it to the host that set it."""

    secure: bool
    domain: str | None
    httponly: bool = True
    samesite: Literal["lax"] = "lax"
    path: str = "/"


def cookie_attributes(settings: Settings) -> CookieAttributes:
    """Secure everywhere but on a laptop; the domain of COOKIE_DOMAIN, since browsers refuse `localhost` as one."""
    address = urlsplit(settings.api_url)
    on_laptop = address.scheme == "http" and (address.hostname or "") in LOCAL_HOSTS
    domain = settings.cookie_domain.strip()
    return CookieAttributes(secure=not on_laptop, domain=None if domain in ("", *LOCAL_HOSTS) else domain)


def sign(settings: Settings, token: str) -> str:
    """The cookie's value; NotConfigured without BETTER_AUTH_SECRET."""
    return f"{token}.{_signature(_secrets(settings)[0], token)}"


def verify(settings: Settings, value: str) -> str | None:
    """The token of a cookie that one of our secrets signed, else None."""
    if len(value) > COOKIE_CHARACTERS_MAX or not value.isascii():
        return None
    token, _, signature = value.rpartition(".")
    genuine = [hmac.compare_digest(_signature(secret, token), signature) for secret in _secrets(settings)]
    return token if token and any(genuine) else None


def _secrets(settings: Settings) -> list[bytes]:
    value = settings.require("better_auth_secret", "Signing in")
    return [part.strip().encode() for part in value.split(",") if part.strip()] or [value.encode()]


def _signature(secret: bytes, token: str) -> str:
    digest = hmac.new(secret, SIGNATURE_PURPOSE + token.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
