"""A registry, asked whether a tag means another image than before.

One HEAD request tells the digest and downloads nothing. Tokens are kept until they expire, so that a look every ten
seconds is one request and not three. The password goes to the registry and to its own token server, over TLS or on this
machine, and nowhere else: https://distribution.github.io/distribution/spec/auth/token/.
"""

import asyncio
import base64
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from wopr.core.errors import Forbidden, NotFound, TooManyRequests, Unauthenticated, UpstreamFailed
from wopr.core.retry_after import retry_after_seconds
from wopr.delivery.registry_reference import (
    DIGEST,
    Challenge,
    Reference,
    base_url,
    may_have_credentials,
    parse_challenge,
    token_of,
)

REQUEST_SECONDS = 10.0
TRIES_MAX = 3
BACK_OFF_SECONDS = 0.3
# Asked again a little before its end, so that none expires on the way.
TOKEN_MARGIN_SECONDS = 5.0
RETRY_AFTER_SECONDS_DEFAULT = 60.0
DOCUMENT_BYTES_MAX = 4 * 1024 * 1024
REDIRECTS_MAX = 3
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
ACCEPT = ", ".join((*INDEXES, *MANIFESTS))
CREDENTIALS = "REGISTRY_SERVER, REGISTRY_USERNAME and REGISTRY_PASSWORD"


@dataclass(frozen=True)
class Description:
    """What an image says of itself: the engine's architecture (`amd64`) and its labels."""

    architecture: str
    labels: Mapping[str, str]


@dataclass
class _Token:
    header: str
    good_until: float  # by the monotonic clock


@dataclass
class Registry:
    """A registry with the operator's credentials. `sleep` and `monotonic` are the clock; tests bring their own."""

    server: str
    username: str = ""
    password: str = field(default="", repr=False)
    plain_http: frozenset[str] = frozenset()
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep, repr=False)
    monotonic: Callable[[], float] = field(default=time.monotonic, repr=False)
    _tokens: dict[str, _Token] = field(default_factory=dict, repr=False)
    _http: httpx.AsyncClient | None = field(default=None, repr=False)

    async def digest(self, image: Reference) -> str:
        """The digest that the tag means now.

        NotFound when the registry has no such tag, Unauthenticated or Forbidden when it wants other credentials,
        TooManyRequests with the seconds to wait, UpstreamFailed when it is away.
        """
        path = f"/v2/{image.name}/manifests/{image.digest or image.tag}"
        answer = await self._ask("HEAD", path, image)
        digest: str = answer.headers.get("docker-content-digest", "")
        if not DIGEST.fullmatch(digest):
            digest = "sha256:" + hashlib.sha256((await self._ask("GET", path, image)).content).hexdigest()
        return digest

    async def describe(self, image: Reference, architecture: str = "amd64") -> Description:
        """Architecture and labels; of an index the part for `architecture`, else its first."""
        manifest = await self._json(f"/v2/{image.name}/manifests/{image.digest or image.tag}", image)
        if manifest.get("manifests"):
            parts: list[dict[str, Any]] = manifest["manifests"]
            fitting = [one for one in parts if one.get("platform", {}).get("architecture") == architecture]
            chosen = (fitting or parts)[0]["digest"]
            manifest = await self._json(f"/v2/{image.name}/manifests/{chosen}", image)
        config = await self._json(f"/v2/{image.name}/blobs/{manifest['config']['digest']}", image)
        labels = (config.get("config") or {}).get("Labels") or {}
        return Description(str(config.get("architecture", "")), labels)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    @property
    def url(self) -> str:
        return base_url(self.server, self.plain_http)

    async def _json(self, path: str, image: Reference) -> dict[str, Any]:
        answer = await self._ask("GET", path, image)
        try:
            found = answer.json()
        except ValueError as error:
            raise UpstreamFailed(f"{self.server} answered {path} with something else than JSON.") from error
        if not isinstance(found, dict):
            raise UpstreamFailed(f"{self.server} answered {path} with something else than a description.")
        return found

    async def _ask(self, method: str, path: str, image: Reference) -> httpx.Response:
        """A request with whatever token is known; after a 401 once more with the one that it asks for."""
        scope = f"repository:{image.name}:pull"
        answer = await self._send(method, self.url + path, self._known(scope))
        if answer.status_code == 401:
            self._tokens.pop(scope, None)
            challenge = parse_challenge(answer.headers.get("www-authenticate", ""))
            header = await self._authorize(challenge, scope)
            answer = await self._send(method, self.url + path, header) if header else answer
        for _ in range(REDIRECTS_MAX):
            if not answer.has_redirect_location:
                break
            # Blobs may live elsewhere; nobody there gets the registry's token.
            answer = await self._send(method, str(answer.url.join(answer.headers["location"])), "")
        self._check(answer, image)
        return answer

    def _known(self, scope: str) -> str:
        token = self._tokens.get(scope)
        return token.header if token and token.good_until > self.monotonic() else ""

    async def _authorize(self, challenge: Challenge, scope: str) -> str:
        """The Authorization header that a challenge asks for; empty when we have nothing to show."""
        pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        basic = f"Basic {pair}" if self.username else ""
        if challenge.scheme == "basic":
            if basic:
                self._tokens[scope] = _Token(basic, float("inf"))
            return basic
        own = may_have_credentials(challenge.realm, self.url)
        if not own and basic:
            raise Forbidden(
                f"{self.server} sends us to {challenge.realm} for a token, not its own: the password stays here.",
                remedy="Check REGISTRY_SERVER. A token server must be under the registry's domain and speak TLS.",
            )
        url = httpx.URL(challenge.realm).copy_merge_params(
            {"service": challenge.service, "scope": challenge.scope or scope}
        )
        answer = await self._send("GET", str(url), basic)
        self._check(answer, None)
        try:
            token, seconds = token_of(answer.json())
        except (ValueError, AttributeError) as error:
            raise UpstreamFailed(f"{challenge.realm} answered without a token.") from error
        if not token:
            raise UpstreamFailed(f"{challenge.realm} answered without a token.")
        self._tokens[scope] = _Token(f"Bearer {token}", self.monotonic() + seconds - TOKEN_MARGIN_SECONDS)
        return f"Bearer {token}"

    async def _send(self, method: str, url: str, authorization: str) -> httpx.Response:
        """One request; again with growing, random pauses when the server fails or can't be reached."""
        headers = {"accept": ACCEPT, **({"authorization": authorization} if authorization else {})}
        failure, wait = "", None
        for number in range(TRIES_MAX):
            if number:
                pause = BACK_OFF_SECONDS * 2**number
                await self.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load, guards nothing
            try:
                answer = await self._fetched(method, url, headers)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                failure = f"{type(error).__name__}: {error}".rstrip(": ")
                continue
            if answer.status_code < 500:
                return answer
            failure = f"HTTP {answer.status_code}"
            wait = retry_after_seconds(answer.headers.get("retry-after"), datetime.now(UTC))
            if wait is not None:
                break  # it says itself when it is back
        raise UpstreamFailed(
            f"The registry {self.server} does not answer: {failure}",
            remedy="What runs goes on; it is asked again.",
            retry_after_seconds=wait,
        )

    async def _fetched(self, method: str, url: str, headers: Mapping[str, str]) -> httpx.Response:
        async with self._client().stream(method, url, headers=headers) as answer:
            content = bytearray()
            async for part in answer.aiter_bytes():
                content += part
                if len(content) > DOCUMENT_BYTES_MAX:
                    raise UpstreamFailed(f"{self.server} sent more than {DOCUMENT_BYTES_MAX} bytes.")
            # The body is decoded already, so its headers of encoding must go.
            kept = [(k, v) for k, v in answer.headers.multi_items() if k not in ("content-encoding", "content-length")]
            return httpx.Response(answer.status_code, headers=kept, content=bytes(content), request=answer.request)

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            # Only what was said here counts: no proxy and no password file of the environment.
            self._http = httpx.AsyncClient(timeout=REQUEST_SECONDS, trust_env=False, follow_redirects=False)
        return self._http

    def _check(self, answer: httpx.Response, image: Reference | None) -> None:
        """Raise what a refusal means. `image` is None for an answer of the token server."""
        status, subject = answer.status_code, str(image) if image else "a token"
        if status == 429:
            wait = retry_after_seconds(answer.headers.get("retry-after"), datetime.now(UTC))
            raise TooManyRequests(
                f"{self.server} is asked too often.",
                retry_after_seconds=RETRY_AFTER_SECONDS_DEFAULT if wait is None else wait,
            )
        who = f"as {self.username}" if self.username else "without credentials"
        if status == 401:
            raise Unauthenticated(
                f"{self.server} refuses {subject} {who}.", remedy=f"Set {CREDENTIALS}: they are missing or wrong."
            )
        if status == 403:
            raise Forbidden(
                f"{self.server} refuses {subject} {who}.", remedy=f"Set {CREDENTIALS} of somebody who may read it."
            )
        if status == 404:
            raise NotFound(f"The registry has no {subject}.", remedy="Was it pushed under this name?")
        if status >= 400 or answer.has_redirect_location:
            raise UpstreamFailed(f"{self.server} answered {subject} with HTTP {status}.")
