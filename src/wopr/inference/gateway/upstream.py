"""The backends behind the gateway: which there are, what they serve, and getting an answer from one of them.

The list comes from the nodes' table (at once when it changes, and now and then), the models from each backend's
`/v1/models`. Until the first byte of an answer arrived, another backend may be asked: connect errors, resets, 429 and
5xx lead to the next one, at last to the outside provider. Nothing has reached the client by then.
"""

import asyncio
import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
import structlog
import yarl

from wopr.billing.prices import PriceSheet
from wopr.core.errors import TooManyRequests, Unavailable, UpstreamFailed, WoprError
from wopr.core.ids import NodeId
from wopr.core.platform import Platform
from wopr.inference import routing
from wopr.inference.gateway import meters
from wopr.inference.gateway.catalog import Catalog
from wopr.inference.gateway.errors import DATABASE_ERRORS, TimedOut
from wopr.inference.gateway.jobs import Job
from wopr.inference.gateway.watch import Running, Watch
from wopr.inference.nodes import NODES_CHANNEL, Backend, backends
from wopr.inference.routing import FALLBACK_SERVICE, Target

CONNECT_SECONDS = 2.0
KEEPALIVE_SECONDS = 30.0
REFRESH_SECONDS = 10.0
REFRESH_SECONDS_UNKNOWN = 1.0  # while a backend has not told its models
MODELS_SECONDS = 3.0
MODELS_BYTES_MAX = 4 * 1024 * 1024
ANSWER_BYTES_MAX = 16 * 1024 * 1024
EMBEDDINGS_BYTES_MAX = 64 * 1024 * 1024  # thousands of vectors, written as decimals
ERROR_BYTES_MAX = 64 * 1024
BYTES_AT_ONCE_MAX = 1024 * 1024  # aiohttp wants more than this as a file
RETRY_SECONDS = 1.0
CONNECTION_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)
# A kept connection that the server closed meanwhile looks like this; the backend itself may be fine.
STALE_ERRORS = (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError)


log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Reply:
    """An answer whose first bytes are there. Give it to `Upstreams.close`."""

    target: Target
    model: str  # the name under which the backend serves it
    response: aiohttp.ClientResponse
    head: bytes
    whole: bool  # `head` is all of it


@dataclass(slots=True)
class _Attempts:
    tried: set[Target] = field(default_factory=set)
    again: set[Target] = field(default_factory=set)
    last: WoprError | None = None


class Upstreams:
    """Every backend of this process, and the pooled client."""

    def __init__(self, platform: Platform, prices: PriceSheet, watch: Watch) -> None:
        self._platform = platform
        self._exchanges = watch
        self.now = platform.clock.monotonic
        self.catalog = Catalog(prices, _fallback(platform))
        self._urls: dict[tuple[str, str], yarl.URL] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        platform.notifier.subscribe(NODES_CHANNEL, lambda _payload: self._changed.set())

    async def start(self) -> None:
        """Open the pool, look once, and keep looking."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )
        await self.refresh()
        self._task = asyncio.create_task(self._watch(), name="gateway backends")

    async def stop(self) -> None:
        """Close every connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def refresh(self) -> None:
        """Read the nodes' table and ask each backend for its models. What can't be read stays as it was."""
        try:
            async with self._platform.db.begin() as session:
                found = await backends(session)
        except DATABASE_ERRORS as error:
            log.warning("gateway.backends.unread", error=f"{type(error).__name__}: {error}")
        else:
            sick = self.catalog.replace(found)
            self.catalog.index()
            if sick:
                self._exchanges.give_up(sick)
        await asyncio.gather(*(self._learn(target) for target in self.catalog.targets))

    async def open(self, job: Job, request_id: str, running: Running) -> Reply:
        """An answer from the best backend that gives one. Raises the WoprError of the last one that was asked."""
        attempts = _Attempts()
        while True:
            target = self._pick(job, attempts.tried)
            if target is None:
                raise attempts.last or Unavailable(
                    f"No machine can serve {job.model} at the moment.",
                    code="no_backend",
                    remedy="Try again shortly; the status page shows what is wrong.",
                    retry_after_seconds=RETRY_SECONDS,
                )
            routing.begin(target)
            reply = None
            running.target, running.waiting = target, True
            try:
                reply = await self._attempt(target, job, request_id, attempts)
            except asyncio.CancelledError:
                if not running.given_up or running.why is not None:
                    raise
                running.task.uncancel()
                running.given_up = False
                attempts.tried.add(target)
                attempts.last = UpstreamFailed(
                    "The model's machine stopped answering.", retry_after_seconds=RETRY_SECONDS
                )
            finally:
                running.waiting = False
                if reply is None:
                    routing.end(target)
            if reply is not None:
                return reply
            meters.RETRIES.inc()

    def close(self, reply: Reply, *, finished: bool) -> None:
        """The answer is over. Unless the backend is finished with it, its connection is cut, which stops the engine."""
        routing.end(reply.target)
        if not reply.whole and not (finished and reply.response.content.at_eof()):
            reply.response.close()

    def broke(self, reply: Reply) -> None:
        """The backend failed in the middle of an answer."""
        self._eject(reply.target, "broke off")

    def _pick(self, job: Job, tried: set[Target]) -> Target | None:
        targets = self.catalog.targets_of(job.service, job.model)
        found = routing.choose(targets, self.now(), job.affinity, tried)
        if found is None and self.catalog.fallback is not None and self.catalog.fallback not in tried:
            found = self.catalog.fallback
        return found or routing.choose_any(targets, tried)

    async def _attempt(self, target: Target, job: Job, request_id: str, attempts: _Attempts) -> Reply | None:
        served = self.catalog.served_name(target, job.model)
        try:
            response = await self._send(target, job, job.body_for(served), request_id)
            error = self._error(response)
            if error is None:
                whole = job.wants_whole(response)
                bytes_max = EMBEDDINGS_BYTES_MAX if job.endpoint.kind == "embedding" else ANSWER_BYTES_MAX
                head = await (_all(response, bytes_max) if whole else _first(response))
                routing.succeeded(target)
                return Reply(target, served, response, head, whole)
        except CONNECTION_ERRORS as failure:
            if isinstance(failure, STALE_ERRORS) and target not in attempts.again:
                attempts.again.add(target)
                return None
            attempts.tried.add(target)
            attempts.last = UpstreamFailed(
                "The model's machine could not be reached.", code="upstream_failed", retry_after_seconds=RETRY_SECONDS
            )
            self._eject(target, f"{type(failure).__name__}: {failure}")
            return None
        attempts.tried.add(target)
        attempts.last = error
        if not isinstance(error, TooManyRequests):
            self._eject(target, f"status {response.status}")
        return None

    async def _send(self, target: Target, job: Job, body: bytes, request_id: str) -> aiohttp.ClientResponse:
        if self._session is None:
            raise Unavailable("The gateway is not running.")
        base, path = target.backend.base_url, job.path
        url = self._urls.get((base, path))
        if url is None:
            url = self._urls[base, path] = yarl.URL(base + path)
        headers = {"Content-Type": job.content_type, "Accept": "*/*", "X-Request-Id": request_id}
        if target.backend.api_key:
            headers["Authorization"] = f"Bearer {target.backend.api_key}"
        data = body if len(body) < BYTES_AT_ONCE_MAX else io.BytesIO(body)
        return await self._session.post(url, data=data, headers=headers, allow_redirects=False)

    def _error(self, response: aiohttp.ClientResponse) -> WoprError | None:
        """The error that lets another backend be asked; None for an answer that the client should see."""
        status = response.status
        if status < 500 and status not in (401, 403, 408, 429):
            return None
        response.close()
        if status == 429:
            after = response.headers.get("Retry-After", "")
            seconds = float(after) if after.isdigit() else RETRY_SECONDS
            return TooManyRequests("The model is busy.", code="model_busy", retry_after_seconds=seconds)
        if status in (408, 504):
            return TimedOut("The model took too long.", retry_after_seconds=RETRY_SECONDS)
        return UpstreamFailed(f"The model's machine answered with status {status}.", retry_after_seconds=RETRY_SECONDS)

    def _eject(self, target: Target, why: str) -> None:
        seconds = routing.failed(target, self.now())
        meters.EJECTIONS.labels(target.backend.node_id, target.backend.service).inc()
        log.warning(
            "gateway.backend.ejected",
            node=target.backend.node_id,
            service=target.backend.service,
            why=why,
            seconds=seconds,
        )

    async def _watch(self) -> None:
        while True:
            unknown = any(not target.models for target in self.catalog.targets)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_SECONDS_UNKNOWN if unknown else REFRESH_SECONDS):
                    await self._changed.wait()
            self._changed.clear()
            await self.refresh()

    async def _learn(self, target: Target) -> None:
        models = await self._models(target)
        if models is not None and models != target.models:
            target.models = models
            self.catalog.index()

    async def _models(self, target: Target) -> frozenset[str] | None:
        if self._session is None:
            return None
        headers = {"Authorization": f"Bearer {target.backend.api_key}"} if target.backend.api_key else {}
        timeout = aiohttp.ClientTimeout(total=MODELS_SECONDS)
        try:
            async with self._session.get(
                f"{target.backend.base_url}/v1/models", headers=headers, timeout=timeout
            ) as response:
                if response.status != 200 or (response.content_length or 0) > MODELS_BYTES_MAX:
                    return None
                document = json.loads(await _all(response, MODELS_BYTES_MAX))
        except (*CONNECTION_ERRORS, ValueError, RecursionError):
            return None
        return _ids(document)


async def _first(response: aiohttp.ClientResponse) -> bytes:
    """The first bytes of the body. Whatever keeps us from having them cuts the connection."""
    try:
        head = await response.content.readany()
        if not head:
            raise aiohttp.ClientPayloadError("the answer is empty")
        return head
    except BaseException:
        response.close()
        raise


async def _all(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The whole body, or ClientPayloadError when it is larger. Whatever keeps us from having it cuts the connection."""
    parts, size = [], 0
    try:
        while part := await response.content.readany():
            parts.append(part)
            size += len(part)
            if size > bytes_max:
                raise aiohttp.ClientPayloadError("the answer is too large")
    except BaseException:
        response.close()
        raise
    return b"".join(parts) if len(parts) != 1 else parts[0]


def _ids(document: object) -> frozenset[str] | None:
    data = document.get("data") if isinstance(document, Mapping) else None
    if not isinstance(data, list):
        return None
    return frozenset(entry["id"] for entry in data if isinstance(entry, Mapping) and isinstance(entry.get("id"), str))


def _fallback(platform: Platform) -> tuple[Backend, str] | None:
    settings = platform.settings
    if not settings.fallback_api_base:
        return None
    key = settings.fallback_api_key
    base = settings.fallback_api_base.rstrip("/").removesuffix("/v1")
    backend = Backend(NodeId("fallback"), FALLBACK_SERVICE, base, key.get_secret_value() if key else None, True)
    return backend, settings.fallback_model
