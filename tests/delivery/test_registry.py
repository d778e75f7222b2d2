"""A registry is asked as its specification says, and the password goes nowhere else. Real servers, on loopback.

The registry itself is Debian's in `tests/machines`; here stand a token server and a front that answer as
https://distribution.github.io/distribution/spec/auth/token/ and RFC 9110 say, also what a real one seldom does.
"""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from wopr.core.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    TooManyRequests,
    Unauthenticated,
    UpstreamFailed,
    WoprError,
)
from wopr.core.retry_after import retry_after_seconds
from wopr.delivery.registry import Registry
from wopr.delivery.registry_reference import (
    Challenge,
    base_url,
    may_have_credentials,
    parse_challenge,
    parse_reference,
    token_of,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "server", "name", "tag", "digest"),
    [
        ("ghcr.io/wopr-network/wopr-bot:latest", "ghcr.io", "wopr-network/wopr-bot", "latest", ""),
        ("ghcr.io/wopr-network/wopr-bot", "ghcr.io", "wopr-network/wopr-bot", "latest", ""),
        (f"127.0.0.1:5000/bot:v1@{DIGEST}", "127.0.0.1:5000", "bot", "v1", DIGEST),
        ("localhost/bot", "localhost", "bot", "latest", ""),
        ("postgres:16-alpine", "docker.io", "library/postgres", "16-alpine", ""),
        ("caddy/caddy", "docker.io", "caddy/caddy", "latest", ""),
    ],
)
def test_an_image_s_name_is_read_as_the_engine_reads_it(
    text: str, server: str, name: str, tag: str, digest: str
) -> None:
    found = parse_reference(text)
    assert (found.server, found.name, found.tag, found.digest) == (server, name, tag, digest)


@pytest.mark.parametrize(
    "text", ["", "UPPER/case", "a:b c", "x/y:", "x@sha256:short", "../etc", "ghcr.io/", "a//b", "a?b"]
)
def test_what_can_not_be_a_name_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_reference(text)


def test_the_challenge_is_found_among_several_and_with_odd_spelling() -> None:
    header = (
        'Basic realm="x", Bearer realm="https://ghcr.io/token",service="ghcr.io" , scope="repository:a/b:pull,push"'
    )
    assert parse_challenge(header) == Challenge(
        "bearer", "https://ghcr.io/token", "ghcr.io", "repository:a/b:pull,push"
    )
    assert parse_challenge('bearer REALM=https://x/t, service="a\\"b"') == Challenge("bearer", "https://x/t", 'a"b')
    assert parse_challenge('Basic realm="wopr"') == Challenge("basic", "wopr")
    assert parse_challenge("").scheme == "basic"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("99999999", 3600.0),
        ("soon", None),
        ("-5", None),
        ("Mon, 30 Nov 99999999999999999999 12:00:00 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_and_as_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


@given(st.text(max_size=40))
def test_no_header_of_a_registry_makes_us_stumble(text: str) -> None:
    parse_challenge(text)
    wait = retry_after_seconds(text, NOW)
    assert wait is None or 0 <= wait <= 3600


def test_a_token_lasts_as_long_as_it_says_else_a_minute() -> None:
    assert token_of({"token": "t", "expires_in": 300}) == ("t", 300.0)
    assert token_of({"access_token": "t"}) == ("t", 60.0)
    assert token_of({"token": "t", "expires_in": "soon"}) == ("t", 60.0)
    assert token_of({"token": 5}) == ("", 0.0)


@pytest.mark.parametrize(
    ("realm", "registry", "allowed"),
    [
        ("https://ghcr.io/token", "https://ghcr.io", True),
        ("https://auth.docker.io/token", "https://registry-1.docker.io", True),
        ("https://gitlab.example.com/jwt/auth", "https://registry.example.com", True),
        ("http://ghcr.io/token", "https://ghcr.io", False),
        ("https://evil.example/token", "https://ghcr.io", False),
        ("https://ghcr.io.evil.example/token", "https://ghcr.io", False),
        ("https://ghcr.io@evil.example/token", "https://ghcr.io", False),
        ("http://127.0.0.1:9/token", "http://127.0.0.1:5000", True),
        ("http://127.0.0.1:9/token", "https://ghcr.io", False),
        ("http://10.0.0.2:5000/token", "http://10.0.0.2:5000", True),
        ("http://10.0.0.3:5000/token", "http://10.0.0.2:5000", False),
        ("https://10.0.1.2/token", "https://10.0.0.2", False),
        ("file:///etc/passwd", "http://127.0.0.1:5000", False),
        ("", "https://ghcr.io", False),
    ],
)
def test_the_password_goes_only_to_the_registry_s_own_token_server(realm: str, registry: str, allowed: bool) -> None:
    assert may_have_credentials(realm, registry) is allowed


def test_a_registry_is_asked_over_tls_unless_it_is_this_machine_or_was_named() -> None:
    assert base_url("ghcr.io") == "https://ghcr.io"
    assert base_url("docker.io") == "https://registry-1.docker.io"
    assert base_url("127.0.0.1:5000") == "http://127.0.0.1:5000"
    assert base_url("localhost:5000") == "http://localhost:5000"
    assert base_url("10.0.0.2:5000") == "https://10.0.0.2:5000"
    assert base_url("10.0.0.2:5000", frozenset({"10.0.0.2:5000"})) == "http://10.0.0.2:5000"


@dataclass
class Front:
    """A registry behind a token server. `answers` are given first, one a request."""

    server: str = ""
    requests: list[str] = field(default_factory=list)
    tokens: list[dict[str, str]] = field(default_factory=list)
    answers: list[Callable[[], web.Response]] = field(default_factory=list)
    documents: dict[str, bytes] = field(default_factory=dict)
    lasts_seconds: int = 300
    realm: str = ""
    with_digest: bool = True
    moved: str = ""
    seen_elsewhere: list[str] = field(default_factory=list)

    def put(self, name: str, tag: str, content: object) -> str:
        data = json.dumps(content).encode()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        for key in (f"{name}/manifests/{tag}", f"{name}/manifests/{digest}", f"{name}/blobs/{digest}"):
            self.documents[key] = data
        return digest

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.path}")
        if self.answers:
            return self.answers.pop(0)()
        good = [f"Bearer t{number}" for number in range(max(0, len(self.tokens) - 1), len(self.tokens))]
        if request.headers.get("authorization") not in good:
            name = request.path.split("/")[2]
            challenge = f'Bearer realm="{self.realm}",service="front",scope="repository:{name}:pull"'
            return web.Response(status=401, headers={"www-authenticate": challenge})
        if request.path == f"/v2/{self.moved}":
            return web.Response(status=307, headers={"location": "/elsewhere"})
        data = self.documents.get(request.path.removeprefix("/v2/"))
        if data is None:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        headers = {"docker-content-digest": digest} if self.with_digest else {}
        return web.Response(body=data, headers=headers, content_type="application/vnd.oci.image.manifest.v1+json")

    async def token(self, request: web.Request) -> web.Response:
        wanted = "Basic " + base64.b64encode(b"robot:secret").decode()
        if request.headers.get("authorization") != wanted:
            return web.json_response({"details": "no"}, status=401)
        self.tokens.append(dict(request.query))
        return web.json_response({"token": f"t{len(self.tokens) - 1}", "expires_in": self.lasts_seconds})

    async def elsewhere(self, request: web.Request) -> web.Response:
        self.seen_elsewhere.append(request.headers.get("authorization", ""))
        return web.Response(body=self.documents["moved"])


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    made = Front()
    app = web.Application()
    app.router.add_get("/token", made.token)
    app.router.add_get("/elsewhere", made.elsewhere)
    app.router.add_route("*", "/v2/{rest:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    made.server, made.realm = f"127.0.0.1:{port}", f"http://127.0.0.1:{port}/token"
    yield made
    await runner.cleanup()


class Time:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
async def asked(front: Front) -> AsyncIterator[tuple[Registry, Time]]:
    clock = Time()
    registry = Registry(front.server, "robot", "secret", sleep=clock.sleep, monotonic=clock.monotonic)
    yield registry, clock
    await registry.close()


async def test_the_digest_of_a_tag_is_told_by_one_request_once_the_token_is_known(
    front: Front, asked: tuple[Registry, Time]
) -> None:
    registry, clock = asked
    digest = front.put("bot", "latest", {"one": 1})
    image = parse_reference(f"{front.server}/bot:latest")
    assert [await registry.digest(image) for _ in range(5)] == [digest] * 5
    assert front.requests == ["HEAD /v2/bot/manifests/latest"] * 6  # the first was refused
    assert front.tokens == [{"service": "front", "scope": "repository:bot:pull"}]
    clock.now += front.lasts_seconds
    await registry.digest(image)
    assert len(front.tokens) == 2


async def test_a_digest_that_is_not_told_is_computed_from_the_document(
    front: Front, asked: tuple[Registry, Time]
) -> None:
    front.with_digest = False
    digest = front.put("bot", "latest", {"one": 1})
    assert await asked[0].digest(parse_reference(f"{front.server}/bot")) == digest


async def test_labels_and_architecture_are_read_through_the_index_and_a_redirect_without_the_token(
    front: Front, asked: tuple[Registry, Time]
) -> None:
    front.documents["moved"] = json.dumps({"architecture": "amd64", "config": {"Labels": {"a": "b"}}}).encode()
    manifest = front.put("bot", "part", {"config": {"digest": DIGEST}})
    arm = {"digest": "sha256:" + "0" * 64, "platform": {"architecture": "arm64"}}
    front.put("bot", "latest", {"manifests": [arm, {"digest": manifest, "platform": {"architecture": "amd64"}}]})

    image = parse_reference(f"{front.server}/bot")
    front.moved = f"bot/blobs/{DIGEST}"
    found = await asked[0].describe(image)
    assert (found.architecture, dict(found.labels)) == ("amd64", {"a": "b"})
    assert front.seen_elsewhere == [""]


@pytest.mark.parametrize(
    ("username", "password", "said"), [("", "", "without credentials"), ("robot", "wrong", "as robot")]
)
async def test_wrong_or_missing_credentials_are_told_with_the_settings_that_mend_it(
    front: Front, username: str, password: str, said: str
) -> None:
    front.put("bot", "latest", {})
    registry = Registry(front.server, username, password)
    try:
        with pytest.raises(Unauthenticated, match=said) as told:
            await registry.digest(parse_reference(f"{front.server}/bot"))
        assert "REGISTRY_USERNAME" in told.value.remedy
        assert "wrong" not in told.value.message
    finally:
        await registry.close()


async def test_a_foreign_token_server_never_sees_the_password(front: Front, asked: tuple[Registry, Time]) -> None:
    front.realm = "https://evil.example/token"
    with pytest.raises(Forbidden, match=r"evil\.example"):
        await asked[0].digest(parse_reference(f"{front.server}/bot"))


async def test_too_many_requests_says_when_to_come_again(front: Front, asked: tuple[Registry, Time]) -> None:
    image = parse_reference(f"{front.server}/bot")
    front.answers.append(lambda: web.Response(status=429, headers={"retry-after": "7"}))
    with pytest.raises(TooManyRequests) as told:
        await asked[0].digest(image)
    assert told.value.retry_after_seconds == 7
    front.answers.append(lambda: web.Response(status=429))
    with pytest.raises(TooManyRequests) as told:
        await asked[0].digest(image)
    assert told.value.retry_after_seconds == 60
    assert asked[1].slept == []


async def test_a_server_that_says_when_it_is_back_is_not_asked_before(
    front: Front, asked: tuple[Registry, Time]
) -> None:
    front.answers.append(lambda: web.Response(status=503, headers={"retry-after": "90"}))
    with pytest.raises(UpstreamFailed, match="503") as told:
        await asked[0].digest(parse_reference(f"{front.server}/bot"))
    assert told.value.retry_after_seconds == 90
    assert asked[1].slept == []


async def test_a_failing_server_is_asked_again_with_growing_pauses_and_not_for_ever(
    front: Front, asked: tuple[Registry, Time]
) -> None:
    image = parse_reference(f"{front.server}/bot")
    digest = front.put("bot", "latest", {})
    front.answers += [lambda: web.Response(status=503), lambda: web.Response(status=500)]
    assert await asked[0].digest(image) == digest
    first, second = asked[1].slept
    assert 0.3 <= first <= 0.9 <= second * 1.5 <= 2.7
    front.answers += [lambda: web.Response(status=502)] * 3
    with pytest.raises(UpstreamFailed, match="502"):
        await asked[0].digest(image)


async def test_a_registry_that_is_away_is_told_so(asked: tuple[Registry, Time]) -> None:
    registry = Registry("127.0.0.1:1", sleep=asked[1].sleep)
    with pytest.raises(UpstreamFailed, match="does not answer"):
        await registry.digest(parse_reference("127.0.0.1:1/bot"))
    await registry.close()


async def test_a_missing_tag_and_a_forbidden_one_are_told_apart(front: Front, asked: tuple[Registry, Time]) -> None:
    image = parse_reference(f"{front.server}/bot:gone")
    with pytest.raises(NotFound, match="bot:gone"):
        await asked[0].digest(image)
    front.answers.append(lambda: web.Response(status=403))
    with pytest.raises(Forbidden, match="refuses"):
        await asked[0].digest(image)


async def test_an_endless_or_odd_answer_is_an_error_and_not_a_stumble(
    front: Front, asked: tuple[Registry, Time]
) -> None:
    image = parse_reference(f"{front.server}/bot")
    front.documents["bot/manifests/latest"] = b"[1]"
    with pytest.raises(WoprError, match="something else"):
        await asked[0].describe(image)
    front.documents["bot/manifests/latest"] = b"x" * (5 * 1024 * 1024)
    with pytest.raises(WoprError, match="more than"):
        await asked[0].describe(image)
