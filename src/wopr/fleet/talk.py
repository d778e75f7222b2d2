"""Talking to a bot for its owner: finds the living instance, waits for one that is starting, passes requests through.

The bot's token never leaves this module, and a bot's refusal of it is our fault, not the caller's.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import httpx

from wopr.bot import contract
from wopr.core.errors import Conflict, Forbidden, PaymentRequired, TooLarge, UpstreamFailed
from wopr.core.ids import BotId, TenantId
from wopr.core.notify import notify
from wopr.core.platform import Platform
from wopr.fleet import bots
from wopr.fleet.bots import BOTS_CHANNEL, BotView
from wopr.fleet.build import Fleet
from wopr.fleet.plan import TURN, State
from wopr.fleet.runtimes.protocol import Instance
from wopr.fleet.standing import SUSPENDED

WAIT_SECONDS_MAX = 10.0
PAUSE_SECONDS_FIRST = 0.05
PAUSE_SECONDS_MAX = 0.5
CALL_SECONDS_MAX = 120.0
ANSWER_BYTES_MAX = 32 * 1024 * 1024
REFUSALS_OF_TOKEN = (401, 403)
PASSED_HEADERS = ("retry-after", contract.REPLAYED_HEADER.lower())


@dataclass(frozen=True)
class Line:
    """Whose bot is meant, and through which fleet it is reached."""

    platform: Platform
    fleet: Fleet
    tenant_id: TenantId
    bot_id: UUID


@dataclass(frozen=True)
class Message:
    """One request to a bot. Unless it is `once`, it is sent again when the bot went away before it could answer.

    Turns have ids and reading changes nothing; what has no id is paid for each time.
    """

    method: str
    path: str
    json: Mapping[str, object] | None = None
    content: bytes | None = None
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    once: bool = False


@dataclass(frozen=True)
class BotAnswer:
    """What the bot answered, refusals included: they have the form of ours."""

    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, str]


async def call(line: Line, message: Message) -> BotAnswer:
    """The bot's whole answer. Conflict with the remedy when the bot is not there to answer."""
    response = await _send(line, message)
    try:
        body = await _read(response)
    except httpx.HTTPError as error:
        raise _broken() from error
    finally:
        await response.aclose()
    kept = {name: response.headers[name] for name in PASSED_HEADERS if name in response.headers}
    return BotAnswer(response.status_code, _media_type(response), body, kept)


async def stream(line: Line, message: Message) -> BotAnswer | AsyncIterator[bytes]:
    """The bot's answer as it arrives; a refusal comes whole. A stream that breaks off ends; its reader resumes it."""
    response = await _send(line, message)
    if response.status_code != httpx.codes.OK:
        try:
            return BotAnswer(response.status_code, _media_type(response), await _read(response), {})
        finally:
            await response.aclose()
    return _pass_on(response)


async def reach(line: Line, deadline: float) -> Instance:
    """The bot's living instance; one that is starting is waited for until `deadline` on the event loop's clock."""
    clock = asyncio.get_running_loop().time
    told = False
    with line.fleet.changes.watch(line.bot_id) as changed:
        while True:
            async with line.platform.db.begin() as session:
                bot = await bots.get(session, line.platform.settings, line.tenant_id, line.bot_id)
                if bot.reason == TURN and not told:
                    # Somebody waits for this one: it goes before those that nobody asks for.
                    told = True
                    await notify(session, BOTS_CHANNEL, str(line.bot_id))
            refuse_unreachable(bot)
            if bot.state is State.RUNNING:
                instance = await line.fleet.runtime.locate(BotId(bot.id))
                if instance is not None and instance.generation == bot.generation:
                    return instance
            if clock() >= deadline:
                raise Conflict(
                    f"The bot is still starting. {bot.reason}".strip(),
                    code="bot_starting",
                    remedy="Try again in a moment; its log says what it is doing.",
                    retry_after_seconds=2,
                )
            await line.fleet.changes.wait(changed, deadline - clock())


def refuse_unreachable(bot: BotView) -> None:
    """Say why a bot that neither runs nor starts can't be talked to, and what to do about it."""
    if bot.state in (State.RUNNING, State.STARTING):
        return
    if bot.state is State.SUSPENDED and bot.reason == SUSPENDED:
        raise Forbidden("The bot is stopped: the account is suspended.", code="suspended", remedy="Write to support.")
    if bot.state is State.SUSPENDED:
        raise PaymentRequired(
            "The bot is stopped because the credit is used up.",
            code="out_of_credit",
            remedy="Add credit under Billing; the bot comes back by itself.",
        )
    if bot.state is State.FAILED:
        raise Conflict(
            f"The bot does not run: {bot.last_error or bot.reason}",
            code="bot_failed",
            remedy="Read its log, change its settings if they are the cause, then start it.",
        )
    raise Conflict(f"The bot is {bot.state}.", code="bot_not_running", remedy="Start the bot, then try again.")


async def _send(line: Line, message: Message) -> httpx.Response:
    deadline = asyncio.get_running_loop().time() + WAIT_SECONDS_MAX
    for tries in itertools.count():
        instance = await reach(line, deadline)
        pause = min(PAUSE_SECONDS_MAX, PAUSE_SECONDS_FIRST * 2**tries)
        try:
            response = await line.fleet.http.send(_request(line, instance, message), stream=True)
        except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            # It ended a moment ago; the reconciler sees that, too, and starts it again.
            arrived = not isinstance(error, httpx.ConnectError)
            if asyncio.get_running_loop().time() >= deadline or (message.once and arrived):
                raise _broken() from error
            await asyncio.sleep(pause)
            continue
        except httpx.HTTPError as error:
            raise _broken() from error
        if response.status_code in REFUSALS_OF_TOKEN:
            await response.aclose()
            raise UpstreamFailed("The bot refused the platform.", remedy="Restart the bot.")
        if asyncio.get_running_loop().time() >= deadline or not await _not_ready(response):
            return response
        await response.aclose()
        await asyncio.sleep(pause)
    raise AssertionError  # count() does not end


async def _not_ready(response: httpx.Response) -> bool:
    """Whether the bot is between its first sign of life and its open database, or on its way out."""
    if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
        return False
    try:
        return contract.ErrorBody.from_json(json.loads(await response.aread())).code == contract.ErrorCode.NOT_READY
    except (ValueError, httpx.HTTPError):
        return False


def _request(line: Line, instance: Instance, message: Message) -> httpx.Request:
    return line.fleet.http.build_request(
        message.method,
        instance.url + message.path,
        json=message.json,
        content=message.content,
        params=dict(message.params) or None,
        headers={**message.headers, "authorization": f"Bearer {instance.token}"},
        timeout=httpx.Timeout(CALL_SECONDS_MAX, connect=2.0),
    )


async def _read(response: httpx.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            raise TooLarge("The bot's answer is too large.", remedy="Ask for less at once.")
        parts.append(part)
    return b"".join(parts)


async def _pass_on(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in response.aiter_bytes():
            yield part
    except httpx.HTTPError:
        return
    finally:
        await response.aclose()


def _media_type(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "application/octet-stream"))


def _broken() -> UpstreamFailed:
    return UpstreamFailed("The bot broke off.", code="bot_broke_off", remedy="Try again; its log may say why.")
