"""Passes an answer on to the client while its bill is counted: in one piece, as events, or as plain bytes."""

import asyncio
import json
import math

import structlog

from wopr.billing.usage import UsageStatus
from wopr.core.errors import UpstreamFailed
from wopr.core.money import to_usd_string
from wopr.inference.gateway import meters
from wopr.inference.gateway.asgi import Header, Send, respond
from wopr.inference.gateway.bills import Bill, Origin
from wopr.inference.gateway.errors import error_body, error_event
from wopr.inference.gateway.stream import StreamScanner, Usage, closing_events, find_usage, split_after
from wopr.inference.gateway.upstream import CONNECTION_ERRORS, Reply, Upstreams
from wopr.inference.gateway.watch import IDLE_SECONDS_MAX, LEFT, Running, Watch

NOTHING = Usage(0, 0)
DONE_EOF_SECONDS = 1.0
EXTEND_BEFORE_TOKENS = 32
STREAM_HEADERS: tuple[Header, ...] = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))

log = structlog.get_logger(__name__)


class Relay:
    """One answer on its way: whether the client has its head, whether it is a stream, whether the end was sent."""

    __slots__ = (
        "_bill",
        "_delivered",
        "_origin",
        "_running",
        "_send",
        "_sent",
        "_upstreams",
        "_watch",
        "ended",
        "events",
        "started",
        "whole",
    )

    def __init__(self, upstreams: Upstreams, watch: Watch, running: Running, send: Send, bill: Bill) -> None:
        self._upstreams = upstreams
        self._watch = watch
        self._running = running
        self._send = send
        self._bill = bill
        self._origin: Origin | None = None
        self._sent = 0  # tokens that were given to the server
        self._delivered = 0  # of these, tokens after which the client was still there
        self.started = False
        self.events = False
        self.ended = False
        self.whole = False  # all of a good answer is on its way, and charged

    async def run(self, reply: Reply, origin: Origin, headers: list[Header]) -> None:
        """Send the answer and charge for it. The bill is settled one way or the other when this ends."""
        self._origin = origin
        self._running.idle_max = IDLE_SECONDS_MAX
        finished = False
        try:
            headers = [*headers, *_place(reply, self._bill.model)]
            if reply.whole:
                await self._whole(reply, headers)
            elif reply.response.content_type == "text/event-stream" and self._bill.job.stream:
                await self._events(reply, headers)
            else:
                await self._bytes(reply, headers)
            finished = True
        finally:
            self._bill.let_go()
            self._upstreams.close(reply, finished=finished)

    async def _whole(self, reply: Reply, headers: list[Header]) -> None:
        response, body = reply.response, reply.head
        status = response.status
        kind = response.headers.get("Content-Type", "application/json").encode()
        self._running.over = True
        if status >= 400:
            self._bill.let_go()
            body, kind = _refused(body, kind)
        else:
            used, units = self._used_whole(body)
            cost = self._close(used, units, "ok")
            headers.append((b"x-wopr-cost-usd", to_usd_string(cost).encode()))
            self.whole = True
        self.started = True
        await respond(self._send, status, [(b"content-type", kind), *headers], body)

    def _used_whole(self, body: bytes) -> tuple[Usage, int]:
        job = self._bill.job
        if job.endpoint.kind == "transcription":
            return NOTHING, _audio_seconds(body, job.units)
        usage = find_usage(body)
        if usage is None:
            output = 0 if job.endpoint.kind == "embedding" else math.ceil(_written(body) / 4)
            usage = Usage(job.prompt_estimate(), output)
        return usage, job.units

    async def _events(self, reply: Reply, headers: list[Header]) -> None:
        self._running.reading = False
        self._watch.follow(self._running)
        kind = reply.response.headers.get("Content-Type", "text/event-stream").encode()
        scanner = StreamScanner(keep_usage=self._bill.job.keep_usage)
        await self._start(200, [(b"content-type", kind), *STREAM_HEADERS, *headers])
        self.events = True
        try:
            await self._pass_events(reply, scanner)
        except CONNECTION_ERRORS as error:
            self._upstreams.broke(reply)
            self._close_stream(scanner, "failed")
            log.warning("gateway.stream.broke", node=self._bill.node_id, error=f"{type(error).__name__}: {error}")
            failure = UpstreamFailed("The model's machine failed in the middle of the answer.", code="stream_failed")
            await self._last(error_event(failure))
        except asyncio.CancelledError:
            scanner.tokens = self._delivered if self._running.why == LEFT else self._sent
            self._close_stream(scanner, "cut")
            raise
        finally:
            if scanner.malformed:
                meters.MALFORMED.inc(scanner.malformed)
                log.warning("gateway.stream.malformed", node=self._bill.node_id, events=scanner.malformed)
        if scanner.done:
            await self._until_end(reply)

    async def _pass_events(self, reply: Reply, scanner: StreamScanner) -> None:
        read = reply.response.content.readany
        bears = self._bill.tokens_held()
        soon = self._running.task.get_loop().call_soon
        chunk = reply.head
        while chunk:
            self._running.progress = self._upstreams.now()
            before = scanner.tokens
            out = scanner.feed(chunk)
            if before == 0 and scanner.tokens:
                self._bill.first_token = self._running.progress
            if scanner.usage is None and scanner.tokens + EXTEND_BEFORE_TOKENS > bears and not scanner.done:
                if await self._bill.extend():
                    bears = self._bill.tokens_held()
                elif scanner.tokens > bears:
                    return await self._cut(scanner, split_after(out, bears - before), bears)
            if scanner.done:
                self._close_stream(scanner, "ok")
                self.whole = True
                return await self._last(out)
            if out:
                await self._send({"type": "http.response.body", "body": out, "more_body": True})
                if scanner.tokens != self._sent:
                    self._sent = scanner.tokens
                    # What the server drops since the client is gone, of which we hear later, is not delivered.
                    soon(self._confirm, self._sent)
            chunk = await read()
        rest = scanner.finish()
        self._close_stream(scanner, "ok")
        await self._last(rest)
        return None

    def _confirm(self, tokens: int) -> None:
        if not self._running.has_left():
            self._delivered = tokens

    async def _cut(self, scanner: StreamScanner, allowed: bytes, bears: int) -> None:
        """Credit is out: what it bore, then a proper end. Leaving the loop cuts the connection to the engine."""
        job = self._bill.job
        scanner.tokens = min(scanner.tokens, bears)
        usage = Usage(job.prompt_estimate(), scanner.tokens)
        self._close(usage, 0, "cut")
        await self._last(allowed + closing_events(scanner, job.choices, usage=usage if job.keep_usage else None))

    async def _bytes(self, reply: Reply, headers: list[Header]) -> None:
        """Plain bytes, one piece behind: the charge is in the log before the last piece leaves."""
        job, response = self._bill.job, reply.response
        cost = self._bill.price.cost(units=job.units)
        kind = response.headers.get("Content-Type", "application/octet-stream").encode()
        start: list[Header] = [(b"content-type", kind), (b"x-wopr-cost-usd", to_usd_string(cost).encode()), *headers]
        if response.content_length is not None and "Content-Encoding" not in response.headers:
            start.append((b"content-length", b"%d" % response.content_length))
        await self._start(response.status, start)
        piece = reply.head
        try:
            while piece:
                self._running.progress = self._upstreams.now()
                following = await response.content.readany()
                if not following:
                    break
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = following
        except CONNECTION_ERRORS as error:
            self._upstreams.broke(reply)
            log.warning("gateway.bytes.broke", node=self._bill.node_id, error=f"{type(error).__name__}: {error}")
            return
        except asyncio.CancelledError:
            self._close(NOTHING, job.units, "cut")
            raise
        self._close(NOTHING, job.units, "ok")
        self.whole = response.status < 400
        await self._last(piece)

    async def _start(self, status: int, headers: list[Header]) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _last(self, body: bytes) -> None:
        self._running.over = self.ended = True
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _until_end(self, reply: Reply) -> None:
        """The client has everything. Read the engine's last bytes, so that the connection can be used again."""
        content = reply.response.content
        if content.at_eof():
            return
        try:
            async with asyncio.timeout(DONE_EOF_SECONDS):
                while await content.readany():
                    pass
        except CONNECTION_ERRORS:
            return

    def _close_stream(self, scanner: StreamScanner, status: UsageStatus) -> None:
        usage = scanner.usage
        if usage is None:
            if not scanner.tokens and status != "ok":
                return self._bill.let_go()
            usage = Usage(self._bill.job.prompt_estimate(), scanner.tokens)
        self._close(usage, 0, status)
        return None

    def _close(self, used: Usage, units: int, status: UsageStatus) -> int:
        if self._origin is None:
            return 0
        return self._bill.close(self._origin, used, units, status, self._upstreams.now())


def _place(reply: Reply, model: str) -> list[Header]:
    return [(b"x-wopr-node", reply.target.backend.node_id.encode()), (b"x-wopr-model", model.encode())]


def _refused(body: bytes, kind: bytes) -> tuple[bytes, bytes]:
    """The backend's own refusal when it is one that OpenAI's clients understand, otherwise ours around it."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if isinstance(document, dict) and isinstance(document.get("error"), dict):
        return body, kind
    detail = document.get("detail") if isinstance(document, dict) else None
    text = detail if isinstance(detail, str) else body[:500].decode("utf-8", "replace")
    return error_body(UpstreamFailed(f"The model refused the request: {text}", code="refused")), b"application/json"


def _audio_seconds(body: bytes, at_most: int) -> int:
    """Seconds by the answer when it says so; a WAV file's header has told them already, and they are never more."""
    try:
        document = json.loads(body)
    except ValueError:
        return at_most
    if not isinstance(document, dict):
        return at_most
    usage = document.get("usage")
    said = document.get("duration", usage.get("seconds") if isinstance(usage, dict) else None)
    try:
        return max(0, min(at_most, math.ceil(float(said)))) if said is not None else at_most
    except (TypeError, ValueError, OverflowError):
        return at_most


def _written(body: bytes) -> int:
    """Characters of an answer that does not tell its usage."""
    try:
        document = json.loads(body)
    except ValueError:
        return 0
    choices = document.get("choices") if isinstance(document, dict) else None
    total = 0
    for choice in choices if isinstance(choices, list) else []:
        message = choice.get("message") if isinstance(choice, dict) else None
        text = message.get("content") if isinstance(message, dict) else choice.get("text", "")
        total += len(text) if isinstance(text, str) else 0
    return total
