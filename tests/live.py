"""People on a running platform, over HTTP only: customers who signed up and paid, the administrator, their bots.

The `live` fixture is one `wopr up` for every test that wants a whole platform and does not break it; tests that kill
things start their own with `tests.stack.start`.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests import stack as stacks
from tests.stack import Stack

WAIT_SECONDS = 120.0
CARD = {"number": "4242424242424242", "expiry": "12/40", "cvc": "123", "name": "Ada Lovelace"}
PASSWORD = "marmot lantern seventeen quilts"

T = TypeVar("T")


class Place(Protocol):
    """Where people are: a `wopr up`, or an installation with the stand-ins beside it."""

    @property
    def api(self) -> str: ...

    @property
    def ui(self) -> str: ...

    @property
    def mail(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """What a request to the API needs besides, such as the name that a proxy goes by."""


@dataclass(frozen=True)
class Person:
    """Somebody with a session. `http` sends it with every request, and the Origin that changes need."""

    stack: Place
    email: str
    tenant_id: str
    http: httpx.Client

    def __enter__(self) -> "Person":
        return self

    def __exit__(self, *_error: object) -> None:
        self.http.close()

    def get(self, path: str) -> Any:
        """The JSON of a GET that must succeed."""
        return _read(self.http.get(path))

    def post(self, path: str, body: Any = None) -> Any:
        """The JSON of a POST that must succeed; None when there is no content."""
        return _read(self.http.post(path, json=body or {}))

    def pay(self, amount_cents: int | None = None) -> None:
        """Pay on the hosted page, a month of the plan or an amount, and wait for the credit."""
        before = float(self.get("/api/billing")["balance"]["available_usd"])
        order = {"mode": "payment", "amount_cents": amount_cents} if amount_cents else {"mode": "subscription"}
        page = self.post("/api/billing/checkout", order)["url"]
        paid = httpx.post(page, data={"email": self.email, **CARD}, timeout=30)
        assert paid.status_code in (302, 303), paid.text
        wait_for(lambda: float(self.get("/api/billing")["balance"]["available_usd"]) > before, "the payment's credit")

    def make_key(self, scope: str = "write", name: str = "a program") -> tuple[str, str]:
        """A new API key: its id and its secret."""
        made = self.post("/api/keys", {"name": name, "scope": scope, "expires_in_days": None})
        return made["key"]["id"], made["secret"]

    def make_bot(self, name: str = "", **settings: Any) -> str:
        """A bot that runs; its id."""
        bot_id = str(self.post("/fleet/bots", {"name": name or f"bot-{secrets.token_hex(4)}", **settings})["id"])
        self.wait_running(bot_id)
        return bot_id

    def wait_running(self, bot_id: str) -> None:
        wait_for(lambda: self.get(f"/fleet/bots/{bot_id}")["state"] == "running", "the bot to run")

    def ask(self, bot_id: str, text: str, conversation_id: str | None = None) -> dict[str, Any]:
        """Say something and wait for the end of the turn; the turn."""
        said = {"text": text} | ({"conversation_id": conversation_id} if conversation_id else {})
        started = self.post(f"/fleet/bots/{bot_id}/turns", said)
        return self.wait_turn(bot_id, started["turn_id"])

    def wait_turn(self, bot_id: str, turn_id: str) -> dict[str, Any]:
        """The turn once it has ended."""

        def ended() -> dict[str, Any] | None:
            turn: dict[str, Any] = self.get(f"/fleet/bots/{bot_id}/turns/{turn_id}")
            return turn if turn["state"] != "running" else None

        return wait_for(ended, "the turn to end")


def required() -> bool:
    """Whether a part that is missing on this machine is a failure rather than a reason to skip."""
    return os.environ.get("WOPR_REQUIRE") == "all"


def missing(what: str) -> NoReturn:
    """Skip, or fail where everything is required."""
    if required():
        pytest.fail(f"{what} is required here (WOPR_REQUIRE=all) and missing")
    pytest.skip(f"{what} is not installed")


@pytest.fixture(scope="session")
def live() -> Iterator[Stack]:
    """The whole platform, running, shared by every test that asks.

    WOPR_TEST_LIVE=HOME,API_PORT,UI_PORT,ENGINE_PORT,STAND_IN_PORT takes a `wopr up` that runs already, for quick rounds
    while a test is written.
    """
    if given := os.environ.get("WOPR_TEST_LIVE"):
        yield _running_already(given)
        return
    folder = Path(tempfile.mkdtemp(prefix="wopr-live-"))
    running = stacks.start(folder / "home")
    try:
        yield running
        assert running.stop() == 130
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def customer(live: Stack) -> Iterator[Person]:
    """A customer with credit, who shares it with many tests."""
    with sign_up(live, "Ada Lovelace") as person:
        person.pay(10_000)
        yield person


@pytest.fixture(scope="session")
def administrator(live: Stack) -> Iterator[Person]:
    """The operator, signed in by a one-time link of their own."""
    with as_administrator(live) as person:
        yield person


def sign_up(stack: Place, name: str = "Somebody") -> Person:
    """A new customer with a confirmed address and no credit, with a network address of their own."""
    email = f"{secrets.token_hex(6)}@example.com"
    with visitor(stack) as http:
        signed_up = http.post("/api/auth/sign-up", json={"email": email, "password": PASSWORD, "name": name})
        assert signed_up.status_code == 202, signed_up.text
        token = mailed_token(stack, email, "verify")
    return _signed_in(stack, "/api/auth/verify", token)


def as_administrator(stack: Stack) -> Person:
    """A session of the platform's administrator."""
    made = stack.wopr("admin", "link", "--json")
    assert made.returncode == 0, made.stderr
    token = parse_qs(urlsplit(json.loads(made.stdout)["link"]).query)["token"][0]
    return _signed_in(stack, "/api/auth/one-time", token)


def visitor(stack: Place) -> httpx.Client:
    """A client of the API with an address of its own, since limits go by address."""
    address = ".".join(["10", *(str(secrets.randbelow(254) + 1) for _ in range(3))])
    headers = {"origin": stack.ui, "x-forwarded-for": address, **stack.headers}
    return httpx.Client(base_url=stack.api, headers=headers, timeout=30, trust_env=False)


def mailed_token(stack: Place, email: str, page: str) -> str:
    """The token of the link to a page in the latest mail to an address."""

    def look() -> str | None:
        mails = httpx.get(f"{stack.mail}/_emulator/mails", params={"to": email}, timeout=60)
        found = re.findall(rf"/{page}\?token=([\w.~-]+)", mails.text)
        return str(found[0]) if found else None

    return wait_for(look, f"the mail to {email}")


def wait_for(look: Callable[[], T | None], what: str, seconds: float = WAIT_SECONDS) -> T:
    """The first result of `look` that is true; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if seen := look():
            return seen
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:.0f} s for {what} in vain")


def _signed_in(stack: Place, path: str, token: str) -> Person:
    http = visitor(stack)
    try:
        who = _read(http.post(path, json={"token": token}))
    except BaseException:
        http.close()
        raise
    return Person(stack, who["user"]["email"], who["tenant"]["id"], http)


def _running_already(given: str) -> Stack:
    home, *numbers = given.split(",")
    api, ui, engines, stand_ins = (int(number) for number in numbers)
    names = ("llama", "chatterbox", "whisper", "qwen")
    ports = {"api": api, "ui": ui, "stripe": stand_ins, "resend": stand_ins + 1}
    ports |= {name: engines + i for i, name in enumerate(names)}
    nothing = subprocess.Popen(["true"], text=True)
    nothing.wait()
    return Stack(Path(home), nothing, ports, time.monotonic())


def _read(answer: httpx.Response) -> Any:
    assert answer.is_success, f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}"
    return answer.json() if answer.content else None


def spoken(text: str) -> bytes | None:
    """The text as WAV, said by flite; None where that is not installed."""
    flite = shutil.which("flite")
    if flite is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spoken.wav"
        subprocess.run([flite, "-voice", "rms", "-t", text, "-o", str(path)], check=True, capture_output=True)
        return path.read_bytes()
