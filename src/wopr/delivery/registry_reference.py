"""Names of images, and what a registry answers in its headers: parsed once, by pure functions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from wopr.core.errors import BadRequest

PUBLIC_SERVER = "docker.io"
PUBLIC_HOST = "registry-1.docker.io"
TAG_DEFAULT = "latest"
TOKEN_SECONDS_DEFAULT = 60.0  # what the token specification says of an answer without expires_in

_SERVER = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::\d{1,5})?")
_NAME = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True)
class Reference:
    """An image at a registry. `server` as it stands in the name, `name` without it, and a tag or a digest."""

    server: str
    name: str
    tag: str = TAG_DEFAULT
    digest: str = ""

    @property
    def repository(self) -> str:
        """The name as the engine writes it, without tag and digest."""
        return f"{self.server}/{self.name}"

    def pinned(self, digest: str) -> str:
        """The reference by digest."""
        return f"{self.repository}@{digest}"

    def __str__(self) -> str:
        return self.pinned(self.digest) if self.digest else f"{self.repository}:{self.tag}"


@dataclass(frozen=True)
class Challenge:
    """What a 401 asks for: `scheme` is bearer or basic, in lower case."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_reference(text: str) -> Reference:
    """`ghcr.io/owner/name:tag` or `…@sha256:…` as its parts. BadRequest for what can't be an image's name."""
    bare, _, digest = text.strip().partition("@")
    first, slash, rest = bare.partition("/")
    has_server = bool(slash) and ("." in first or ":" in first or first == "localhost")
    server, path = (first, rest) if has_server else (PUBLIC_SERVER, bare)
    head, slash, last = path.rpartition("/")
    last, colon, tag = last.partition(":")
    name = f"{head}{slash}{last}"
    if server == PUBLIC_SERVER and "/" not in name:
        name = f"library/{name}"
    wrong_tag = bool(colon) and not _TAG.fullmatch(tag)
    if (
        not _SERVER.fullmatch(server)
        or not _NAME.fullmatch(name)
        or wrong_tag
        or (digest and not DIGEST.fullmatch(digest))
    ):
        raise BadRequest(f"{text!r} is no image name.", remedy="Write it as ghcr.io/owner/name:tag.")
    return Reference(server, name, tag or TAG_DEFAULT, digest)


def base_url(server: str, plain_http: frozenset[str] = frozenset()) -> str:
    """Where a registry is asked: over TLS, but for this machine's own and for those that the operator named."""
    host = PUBLIC_HOST if server == PUBLIC_SERVER else server
    return f"{'http' if is_loopback(host) or server in plain_http else 'https'}://{host}"


def is_loopback(host_and_port: str) -> bool:
    """Whether the address is this machine."""
    host = urlsplit(f"//{host_and_port}").hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def may_have_credentials(realm: str, registry: str) -> bool:
    """Whether a token server is the registry's own, so that the registry's password may be sent there.

    Over TLS and under the same domain (ghcr.io and ghcr.io, registry-1.docker.io and auth.docker.io), or at the very
    address of the registry, or both on this machine.
    """
    there, here = urlsplit(realm), urlsplit(registry)
    if not there.hostname or not here.hostname or there.username:
        return False
    if (there.scheme, there.netloc) == (here.scheme, here.netloc):
        return True
    if is_loopback(there.netloc) and is_loopback(here.netloc):
        return there.scheme in ("http", "https")
    return there.scheme == "https" and here.scheme == "https" and _site(there.hostname) == _site(here.hostname)


def parse_challenge(header: str) -> Challenge:
    """`WWW-Authenticate` of a registry: the bearer challenge when there is one among several, else basic."""
    parameters = {name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(header)}
    if re.search(r"(?:^|,)\s*bearer\b", header, re.IGNORECASE):
        names = ("realm", "service", "scope")
        return Challenge("bearer", *(_unescaped(parameters.get(name, "")) for name in names))
    return Challenge("basic", _unescaped(parameters.get("realm", "")))


def token_of(body: Mapping[str, object]) -> tuple[str, float]:
    """The token and for how many seconds it is good, from a token server's answer; ('', 0) when there is none."""
    token = body.get("token") or body.get("access_token")
    if not isinstance(token, str):
        return "", 0.0
    lasts = body.get("expires_in")
    good = isinstance(lasts, int | float) and not isinstance(lasts, bool) and lasts > 0
    return token, float(lasts) if good else TOKEN_SECONDS_DEFAULT  # type: ignore[arg-type]


def _site(host: str) -> str:
    try:
        ip_address(host)
    except ValueError:
        return ".".join(host.lower().rstrip(".").split(".")[-2:])
    return host


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
