"""The happy path as a customer walks it, over HTTP only: sign up, verify, pay, create a bot, get an answer.

Against the stand-ins every step is walked. Against real companies mail can't be read nor a card charged by a program;
then an API key of a paying customer skips those two, and the report says so.
"""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import httpx

from wopr.client import ApiClient, ApiError, shared_http
from wopr.client.conversation import Saying

STEP_SECONDS_MAX = 30.0
POLL_SECONDS = 0.05
CARD = {"number": "4242424242424242", "expiry": "12/40", "cvc": "123", "name": "Smoke Test"}
QUESTION = "What does a bot cost?"
CLEAN_UP = "clean up"
LOOK = "Look where it runs: wopr status, then wopr check."


@dataclass(frozen=True)
class Target:
    """The deployment that is tried. `mail_url` is the mail stand-in's page; a `key` skips sign-up and payment.

    `through` is another way there than by this machine's own names and roots. A step may take `seconds_max`.
    """

    url: str
    mail_url: str = ""
    key: str = ""
    through: httpx.AsyncBaseTransport | None = None
    seconds_max: float = STEP_SECONDS_MAX


@dataclass(frozen=True)
class Step:
    """One step walked: what, how long, and what was seen; `error` is empty when it went well."""

    name: str
    seconds: float
    detail: str
    error: str = ""
    remedy: str = ""


class SmokeFailed(Exception):
    """A step did not show what it should; the message says what was seen."""


@dataclass
class Walk:
    """A walk in progress, and what later steps need of earlier ones."""

    api: ApiClient
    target: Target
    email: str
    bot_id: str = ""
    turn_id: str = ""

    async def healthy(self) -> str:
        await self.api.ops.health()
        await self.api.ops.ready()
        return self.target.url

    async def sign_up(self) -> str:
        await self.api.accounts.sign_up(self.email, secrets.token_urlsafe(18), "Smoke Test")
        return self.email

    async def verify(self) -> str:
        token = await self._mailed_token()
        await self.api.accounts.verify(token)
        self.api.use_session()
        return "link in the mail followed"

    async def pay(self) -> str:
        page = await self.api.billing.checkout("subscription")
        async with httpx.AsyncClient(follow_redirects=False, timeout=self.target.seconds_max) as http:
            answer = await http.post(page, data={"email": self.email, **CARD})
        if answer.status_code not in (302, 303):
            raise SmokeFailed(f"the checkout page answered {answer.status_code} instead of leading back")
        return "card accepted on the hosted page"

    async def credited(self) -> str:
        async def look() -> str | None:
            balance = (await self.api.billing.summary()).balance
            return f"${balance.available_usd:.2f} available" if balance.available_usd > 0 else None

        return await self._until(look, "the payment's credit")

    async def create_bot(self) -> str:
        bot = await self.api.fleet.create({"name": f"smoke-{secrets.token_hex(3)}"})
        self.bot_id = bot.id

        async def look() -> str | None:
            seen = await self.api.fleet.bot(self.bot_id)
            if seen.state == "failed":
                raise SmokeFailed(f"the bot failed: {seen.last_error or seen.reason}")
            return seen.name if seen.state == "running" else None

        return await self._until(look, "the bot to run")

    async def answered(self) -> str:
        turn = await self.api.fleet.say(self.bot_id, Saying(text=QUESTION))
        self.turn_id = turn.turn_id
        text = ""
        async for event in self.api.fleet.turn_events(self.bot_id, self.turn_id):
            if event.name == "delta":
                text += str(event.json().get("text", ""))
            elif event.name == "restarted":
                text = ""
            elif event.name == "failed":
                raise SmokeFailed(str(event.json().get("message", "the turn failed")))
        if not text.strip():
            raise SmokeFailed("the answer is empty")
        return " ".join(text.split())[:60] + "…"

    async def receipt(self) -> str:
        async def look() -> str | None:
            receipt = await self.api.fleet.receipt(self.bot_id, self.turn_id)
            return f"${receipt.total_usd:f} in {len(receipt.lines)} requests" if receipt.lines else None

        return await self._until(look, "the receipt")

    async def clean_up(self) -> str:
        await self.api.fleet.delete(self.bot_id)
        return "bot deleted"

    async def _mailed_token(self) -> str:
        async with httpx.AsyncClient(timeout=self.target.seconds_max) as http:

            async def look() -> str | None:
                answer = await http.get(f"{self.target.mail_url}/_emulator/mails", params={"to": self.email})
                found = re.search(r"/verify\?token=([\w.~-]+)", answer.text)
                return found.group(1) if found else None

            return await self._until(look, "the verification mail")

    async def _until(self, look: Callable[[], Awaitable[str | None]], what: str) -> str:
        seconds = self.target.seconds_max - 1
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (seen := await look()) is not None:
                return seen
            await asyncio.sleep(POLL_SECONDS)
        raise SmokeFailed(f"waited {seconds:.0f} s for {what} in vain")


async def walk(target: Target) -> AsyncIterator[Step]:
    """Walk the path and yield each step as it ends. The first that fails is the last, but for the bot's deletion.

    A bot that was made is not left to a customer who would pay for it.
    """
    email = f"smoke+{secrets.token_hex(5)}@example.com"
    http = shared_http(target.url, target.through)
    async with http, ApiClient(target.url, key=target.key or None, http=http) as api:
        journey = Walk(api, target, email)
        steps: list[tuple[str, Callable[[], Awaitable[str]]]] = [("healthy and ready", journey.healthy)]
        if not target.key:
            steps += [("sign up", journey.sign_up), ("verify the address", journey.verify), ("pay", journey.pay)]
        steps += [
            ("credit arrives", journey.credited),
            ("bot runs", journey.create_bot),
            ("bot answers", journey.answered),
            ("receipt", journey.receipt),
            (CLEAN_UP, journey.clean_up),
        ]
        for name, action in steps:
            step = await _walked(name, action, target.seconds_max)
            yield step
            if step.error:
                if journey.bot_id and name != CLEAN_UP:
                    yield await _walked(CLEAN_UP, journey.clean_up, target.seconds_max)
                return


async def _walked(name: str, action: Callable[[], Awaitable[str]], seconds_max: float) -> Step:
    started = time.monotonic()
    error = remedy = detail = ""
    try:
        async with asyncio.timeout(seconds_max):
            detail = await action()
    except ApiError as refused:
        error, remedy = refused.message, refused.remedy
    except (SmokeFailed, httpx.HTTPError) as seen:
        error = str(seen) or type(seen).__name__
    except TimeoutError:
        error = f"not within {seconds_max:.0f} s"
    return Step(name, time.monotonic() - started, detail, error, remedy or (LOOK if error else ""))
