"""The command line: stand-ins as processes, and triggers that make them act."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.query
import httpx
import pytest
from typer.testing import CliRunner, Result

from wopr.cli import emulators, trigger

from .conftest import Shop, stripe_client

RUN = "from wopr.cli.emulators import app; app()"


@contextmanager
def running(home: Path, *arguments: str, lines: int = 1) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A stand-in's process and the addresses that it tells once it listens."""
    command = [sys.executable, "-c", RUN, *arguments, "--port", "0", "--json"]
    environment = {**os.environ, "WOPR_HOME": str(home), "STRIPE_DEFAULT_PRICE_ID": "price_mine"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        told = [json.loads(process.stdout.readline()) for _ in range(lines)]
        try:
            yield process, {one["name"]: one["url"] for one in told}
        finally:
            process.kill()


def test_all_stand_ins_run_in_one_process_and_end_on_a_signal(tmp_path: Path) -> None:
    with running(tmp_path, "all", "--dns-port", "0", lines=4) as (process, urls):
        assert {httpx.get(f"{url}/health").json()["status"] for url in urls.values()} == {"ok"}
        assert set(urls) == {"stripe", "resend", "digitalocean", "cloudflare"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    kept = {path.stem for path in (tmp_path / "emulators").glob("*.sqlite3")}
    assert kept == {"stripe", "resend", "digitalocean", "cloudflare"}


def test_some_stand_ins_run_alone(tmp_path: Path) -> None:
    with running(tmp_path, "all", "--only", "resend", "--only", "stripe", lines=2) as (_, urls):
        assert set(urls) == {"stripe", "resend"}
    refused = CliRunner().invoke(emulators.app, ["all", "--only", "paypal"])
    assert (refused.exit_code, "paypal" in refused.stderr) == (2, True)


def test_the_name_server_is_told_and_answers(tmp_path: Path) -> None:
    with running(tmp_path, "cloudflare", "--dns-port", "0", "--zone", "example.com") as (_, urls):
        where = httpx.get(f"{urls['cloudflare']}/_emulator/dns").json()
        query = dns.message.make_query("example.com", "NS")
        answer = dns.query.udp(query, where["host"], port=where["port"], timeout=20)
        assert len(answer.answer[0]) == 2
        command = [sys.executable, "-c", RUN, "cloudflare", "--port", "0", "--dns-port", str(where["port"])]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "--dns-port" in ended.stderr


def test_a_killed_stand_in_still_knows_what_was_paid(tmp_path: Path) -> None:
    with running(tmp_path, "stripe") as (process, urls), stripe_client(urls["stripe"]) as client:
        item = {"price": "price_mine", "quantity": 1}
        session = client.v1.checkout.sessions.create(
            {"mode": "subscription", "line_items": [item], "success_url": "http://x.test/"}
        )
        form = {"email": "a@example.com", "number": "4242424242424242", "expiry": "12/40", "cvc": "123", "name": "Ada"}
        assert session.url is not None
        assert httpx.post(session.url, data=form).status_code == 303
        process.kill()
        process.wait(timeout=60)
    with running(tmp_path, "stripe") as (_, urls), stripe_client(urls["stripe"]) as client:
        assert client.v1.checkout.sessions.retrieve(session.id).payment_status == "paid"
        assert client.v1.subscriptions.list().data[0].status == "active"


def test_a_port_in_use_is_named_with_the_remedy(tmp_path: Path, shop: Shop) -> None:
    port = shop.url.rpartition(":")[2]
    command = [sys.executable, "-c", RUN, "stripe", "--port", port, "--state", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert port in ended.stderr
    assert "--port" in ended.stderr


@pytest.fixture
def invoke(shop: Shop) -> object:
    runner = CliRunner()
    return lambda *arguments: runner.invoke(trigger.app, [*arguments, "--url", shop.url])


def test_trigger_makes_the_stand_in_act(shop: Shop, invoke: object) -> None:
    done = invoke("stripe", "checkout.session.completed", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["triggered"] == "checkout.session.completed"
    plain = invoke("stripe", "charge.refunded", "--amount", "100")
    assert "refund.created" in plain.stdout
    assert shop.client.v1.refunds.list().data[0].amount == 100
    assert "invoice.paid" in invoke("stripe").stdout


def test_a_dry_run_says_what_would_happen_and_changes_nothing(shop: Shop, invoke: object) -> None:
    tried = invoke("stripe", "invoice.paid", "--dry-run")
    assert "invoice.payment_succeeded" in tried.stdout
    assert "Nothing was changed" in tried.stderr
    assert invoke("clock", "--days", "40", "--dry-run").exit_code == 0
    assert shop.client.v1.events.list().data == []
    assert shop.client.v1.subscriptions.list().data == []
    assert shop.browser.get("/_emulator/clock").json()["offset_seconds"] == 0


def test_a_rehearsal_calls_its_ids_examples(invoke: Callable[..., Result]) -> None:
    told = invoke("stripe", "checkout.session.completed", "--dry-run")
    assert "Ids are examples" in told.stderr
    assert all("  for example " in line for line in told.stdout.splitlines() if "_" in line.partition("  ")[2])
    assert "for example" in told.stdout


def test_trigger_explains_what_it_cannot_do(invoke: object) -> None:
    unknown = invoke("stripe", "rain")
    assert unknown.exit_code == 1
    assert "charge.refunded" in unknown.stderr
    assert CliRunner().invoke(trigger.app, ["stripe", "--url", "http://127.0.0.1:9"]).exit_code == 1
    assert invoke("clock").exit_code == 2


def test_the_clock_moves_on(shop: Shop, invoke: object) -> None:
    moved = json.loads(invoke("clock", "--days", "3", "--json").stdout)
    assert moved["offset_seconds"] == 3 * 86400
    assert shop.browser.get("/_emulator/clock").json()["offset_seconds"] == 3 * 86400
