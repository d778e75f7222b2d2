"""Which pages may make a browser change something: the defence against forged requests, beside SameSite=Lax.

Follows OWASP's advice on verifying the origin with standard headers: Origin first, then Sec-Fetch-Site, then Referer;
a request that says nothing about where it comes from is refused.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from wopr.accounts.cookies import LOCAL_HOSTS
from wopr.core.settings import Settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
DEFAULT_PORTS = {"http": 80, "https": 443}


def allowed_origins(settings: Settings) -> frozenset[str]:
    """The origins of API_URL, UI_URL and ALLOWED_ORIGINS; on a laptop under each of its three names."""
    given = [settings.api_url, settings.ui_url, *settings.allowed_origins.split(",")]
    return frozenset(name for origin in map(origin_of, given) if origin for name in _names(origin))


def is_allowed(headers: Mapping[str, str], allowed: frozenset[str]) -> bool:
    """Whether a state-changing request with a cookie comes from a page of ours. `headers` ignores case."""
    origin = headers.get("origin")
    if origin is not None:
        return origin_of(origin) in allowed
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return origin_of(headers.get("referer", "")) in allowed


def is_foreign(headers: Mapping[str, str], allowed: frozenset[str]) -> bool:
    """Whether a request says that it comes from elsewhere; programs, which say nothing, are not foreign.

    For routes that need no cookie but set one: a foreign page must not sign its visitor in to somebody else's account.
    """
    origin = headers.get("origin")
    if origin is not None:
        return origin_of(origin) not in allowed
    return headers.get("sec-fetch-site", "none") not in ("same-origin", "none")


def origin_of(address: str) -> str:
    """`scheme://host[:port]` in one spelling; empty when it is no web address."""
    try:
        parts = urlsplit(address.strip())
        port = parts.port
    except ValueError:
        return ""
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown = "" if port in (None, DEFAULT_PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{shown}"


def _names(origin: str) -> list[str]:
    parts = urlsplit(origin)
    if parts.hostname not in LOCAL_HOSTS:
        return [origin]
    port = "" if parts.port is None else f":{parts.port}"
    return [f"{parts.scheme}://{host}{port}" for host in ("localhost", "127.0.0.1", "[::1]")]
