"""Notifications of pushes: from a Docker registry and from GitHub, each proved by its secret.

A notification only makes the deliverer look sooner; what is released is what the registry itself answers. So a forged,
repeated or lost one can't release anything that polling would not, and polling goes on all the same.
https://distribution.github.io/distribution/about/notifications/ and
https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from wopr.core.errors import Unavailable

BODY_BYTES_MAX = 1024 * 1024
EVENTS_MAX = 1_000
SEEN_MAX = 2_000
SHUTDOWN_SECONDS = 2.0
REGISTRY_PATH, GITHUB_PATH = "/hooks/registry", "/hooks/github"
GITHUB_EVENTS = ("package", "registry_package")
GITHUB_ACTIONS = ("published", "updated")

# Takes an image's name without its server, and a tag or nothing; says whether it is watched.
Notify = Callable[[str, str], bool]


@dataclass
class Hooks:
    """The listener. A path whose secret is empty does not exist."""

    notify: Notify
    registry_secret: str = field(default="", repr=False)
    github_secret: str = field(default="", repr=False)
    _seen: OrderedDict[str, None] = field(default_factory=OrderedDict, repr=False)
    _runner: web.AppRunner | None = field(default=None, repr=False)

    async def start(self, host: str, port: int) -> int:
        """Listen; the port (another one than asked for only with 0). Unavailable when it is taken."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_get("/health", _health)
        if self.registry_secret:
            app.router.add_post(REGISTRY_PATH, self._registry)
        if self.github_secret:
            app.router.add_post(GITHUB_PATH, self._github)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self.stop()
            raise Unavailable(
                f"Notifications can't be listened for on {host}:{port}: {error.strerror}",
                remedy="Set another DELIVER_HOOK_PORT, or stop what uses this one.",
            ) from error
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _registry(self, request: web.Request) -> web.Response:
        if not bears(request.headers.get("authorization", ""), self.registry_secret):
            return _refused("The secret is wrong or missing.")
        document = _parsed(await request.read())
        if document is None:
            return _answer(400, "The body is not a JSON object.")
        return self._told([push for key, push in registry_pushes(document) if self._is_new(key)])

    async def _github(self, request: web.Request) -> web.Response:
        body = await request.read()
        if not is_signed(body, request.headers.get("x-hub-signature-256", ""), self.github_secret):
            return _refused("The signature is wrong or missing.")
        event = request.headers.get("x-github-event", "")
        if event == "ping":
            return web.json_response({"pong": True})
        document = _parsed(body)
        if document is None:
            return _answer(400, "The body is not a JSON object.")
        push = github_push(event, document)
        # The id is not covered by the signature: what was signed is.
        fresh = push is not None and self._is_new("github " + hashlib.sha256(body).hexdigest())
        return self._told([push] if push and fresh else [])

    def _told(self, pushes: list[tuple[str, str]]) -> web.Response:
        watched = sum([self.notify(name, tag) for name, tag in pushes])
        return web.json_response({"pushes": len(pushes), "watched": watched})

    def _is_new(self, key: str) -> bool:
        """Whether this notification was not seen lately."""
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        return True


def bears(header: str, secret: str) -> bool:
    """Whether an Authorization header shows the secret, as a bearer or as the password of any user."""
    scheme, _, value = header.partition(" ")
    shown = value.strip()
    if scheme.lower() == "basic":
        try:
            shown = base64.b64decode(shown, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return bool(secret) and hmac.compare_digest(shown.encode(errors="surrogateescape"), secret.encode())


def is_signed(body: bytes, header: str, secret: str) -> bool:
    """Whether GitHub's `X-Hub-Signature-256` is that of the body."""
    wanted = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return bool(secret) and hmac.compare_digest(header.encode(errors="surrogateescape"), wanted.encode())


def registry_pushes(document: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """The pushes of tags among a registry's events: (key of the event, (name, tag))."""
    events = document.get("events")
    for event in events[:EVENTS_MAX] if isinstance(events, list) else ():
        if not isinstance(event, dict) or event.get("action") != "push" or not isinstance(event.get("target"), dict):
            continue
        name, tag = event["target"].get("repository"), event["target"].get("tag")
        if isinstance(name, str) and isinstance(tag, str) and name and tag:  # layers and untagged parts have none
            yield f"registry {event.get('id')} {event.get('timestamp')} {name}:{tag}", (name, tag)


def github_push(event: str, document: Mapping[str, Any]) -> tuple[str, str] | None:
    """The image and tag that a webhook of GitHub's packages tells of; None when it tells of something else."""
    package = document.get(event)
    if event not in GITHUB_EVENTS or document.get("action") not in GITHUB_ACTIONS or not isinstance(package, dict):
        return None
    kind, name = str(package.get("package_type", "")).lower(), package.get("name")
    if kind not in ("container", "docker") or not isinstance(name, str) or not name:
        return None
    owner = package.get("owner")
    login = owner.get("login") if isinstance(owner, dict) else package.get("namespace")
    version = package.get("package_version")
    metadata = version.get("container_metadata") if isinstance(version, dict) else None
    tag = metadata.get("tag") if isinstance(metadata, dict) else None
    named = tag.get("name") if isinstance(tag, dict) else None
    return f"{login}/{name}".lower() if login else name.lower(), named if isinstance(named, str) else ""


async def _health(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _refused(message: str) -> web.Response:
    return _answer(401, message)


def _answer(status: int, message: str) -> web.Response:
    code = "unauthenticated" if status == 401 else "bad_request"
    return web.json_response({"error": {"code": code, "message": message, "remedy": ""}}, status=status)
