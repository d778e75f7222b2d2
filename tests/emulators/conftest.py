"""Stand-ins on free ports, reached as production reaches the companies: over HTTP, with the official client library."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import requests
import stripe
from tests.serving import served, until

from wopr.emulators.stripe import StripeSettings, build_stripe

SECRET = "whsec_test_the_whole_string_is_the_key"


@dataclass
class Receiver:
    """A webhook endpoint that keeps what it got and answers with the next of `answers`, then 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    received: list[tuple[bytes, str]] = field(default_factory=list)
    _verified: list[stripe.Event] = field(default_factory=list)

    def events(self) -> list[stripe.Event]:
        """What arrived, each verified once by the official library."""
        arrived = list(self.received)
        self._verified = self._verified[: len(arrived)]
        for body, header in arrived[len(self._verified) :]:
            self._verified.append(stripe.Webhook.construct_event(body, header, SECRET))
        return list(self._verified)

    def types(self) -> list[str]:
        return [event.type for event in self.events()]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.received.append((body, self.headers["stripe-signature"]))
            self.send_response(kept.answers.pop(0) if kept.answers else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    kept.url = f"http://127.0.0.1:{server.server_address[1]}/webhook"
    yield kept
    server.shutdown()
    server.server_close()
    thread.join(timeout=60)


@dataclass
class Shop:
    """The stand-in, the official client that talks to it, and a browser."""

    url: str
    client: stripe.StripeClient
    browser: httpx.Client
    receiver: Receiver

    def pay(self, session_id: str, number: str = "4242 4242 4242 4242", **fields: str) -> httpx.Response:
        """Fill in the hosted page and press the button."""
        form = {"number": number, "expiry": "12 / 40", "cvc": "123", "name": "Ada Lovelace", "email": "ada@example.com"}
        return self.browser.post(f"/c/pay/{session_id}", data=form | fields)

    def checkout(self, **params: object) -> stripe.checkout.Session:
        """A session for the monthly plan, or as told."""
        plan = {"mode": "subscription", "line_items": [{"price": "price_plan", "quantity": 1}]}
        back = {
            "success_url": "https://wopr.test/return?session_id={CHECKOUT_SESSION_ID}",
            "cancel_url": "https://wopr.test/",
        }
        return self.client.v1.checkout.sessions.create({**plan, **back, **params})

    def top_up(self, cents: int = 1000, **params: object) -> stripe.checkout.Session:
        """A session for a single payment."""
        item = {
            "price_data": {"currency": "usd", "unit_amount": cents, "product_data": {"name": "Credit"}},
            "quantity": 1,
        }
        return self.checkout(mode="payment", line_items=[item], **params)

    def settled(self, event_type: str, count: int = 1) -> list[stripe.Event]:
        """Wait until the webhook got so many events of a type; returns them."""
        until(lambda: self.receiver.types().count(event_type) >= count)
        return [event for event in self.receiver.events() if event.type == event_type]


@contextmanager
def open_shop(state: Path, receiver: Receiver, **changes: object) -> Iterator[Shop]:
    settings = {
        "state": state,
        "default_price_id": "price_plan",
        "webhook_url": receiver.url,
        "webhook_secret": SECRET,
        "retry_delays_seconds": (0.02, 0.05, 0.1),
        "tick_seconds": 0.05,
    }
    app = build_stripe(StripeSettings(**(settings | changes)))
    with served(app) as url, httpx.Client(base_url=url, timeout=30) as browser, stripe_client(url) as client:
        yield Shop(url, client, browser, receiver)


@contextmanager
def stripe_client(url: str, key: str = "sk_test_key") -> Iterator[stripe.StripeClient]:
    """The official library, talking to the stand-in."""
    with requests.Session() as session:
        yield stripe.StripeClient(key, base_addresses={"api": url}, http_client=stripe.RequestsClient(session=session))


@pytest.fixture
def shop(tmp_path: Path, receiver: Receiver) -> Iterator[Shop]:
    with open_shop(tmp_path / "stripe.sqlite3", receiver) as opened:
        yield opened
