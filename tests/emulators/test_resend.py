"""The mail stand-in: accepts what Resend accepts, refuses what it refuses, shows what it kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serving import served

from wopr.emulators.resend import ResendSettings, build_resend

KEY = {"authorization": "Bearer re_test"}
MAIL: dict[str, Any] = {
    "from": "WOPR <hello@wopr.bot>",
    "to": "ada@example.com",
    "subject": "Confirm your address",
    "text": "Follow http://localhost:3000/verify?token=abc.",
    "html": '<p onclick="x()">Follow <a href="http://localhost:3000/verify?token=abc&amp;b=1">this</a></p>',
}


@pytest.fixture
def post(tmp_path: Path) -> Iterator[httpx.Client]:
    with (
        served(build_resend(ResendSettings(tmp_path / "mail.sqlite3"))) as url,
        httpx.Client(base_url=url, headers=KEY) as client,
    ):
        yield client


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[httpx.Client]:
    settings = ResendSettings(tmp_path / "strict.sqlite3", api_key="re_right", strict=True)
    with (
        served(build_resend(settings)) as url,
        httpx.Client(base_url=url, headers={"authorization": "Bearer re_right"}) as client,
    ):
        yield client


def test_a_mail_is_accepted_kept_and_shown(post: httpx.Client) -> None:
    answer = post.post("/emails", json=MAIL)
    assert answer.status_code == 200
    mail_id = answer.json()["id"]
    kept = post.get(f"/emails/{mail_id}").json()
    assert (kept["object"], kept["to"], kept["subject"], kept["last_event"]) == (
        "email",
        ["ada@example.com"],
        MAIL["subject"],
        "delivered",
    )
    assert "Confirm your address" in post.get("/").text
    assert 'http-equiv="refresh"' in post.get("/").text
    page = post.get(f"/mails/{mail_id}")
    assert "sandbox=" in page.text
    assert 'href="http://localhost:3000/verify?token=abc&amp;b=1"' in page.text
    body = post.get(f"/mails/{mail_id}/html")
    assert MAIL["html"] in body.text
    assert "default-src 'none'" in body.headers["content-security-policy"]
    assert post.get("/mails/unknown").status_code == 404


def test_tests_read_the_newest_mail_of_an_address(post: httpx.Client) -> None:
    post.post("/emails", json=MAIL)
    post.post("/emails", json=MAIL | {"to": ["Bob <bob@example.com>"], "subject": "For Bob"})
    found = post.get("/_emulator/mails", params={"to": "BOB@example.com"}).json()["mails"]
    assert [m["subject"] for m in found] == ["For Bob"]
    assert found[0]["links"] == ["http://localhost:3000/verify?token=abc", "http://localhost:3000/verify?token=abc&b=1"]
    assert post.delete("/_emulator/mails").status_code == 204
    assert post.get("/_emulator/mails").json() == {"mails": []}


@pytest.mark.parametrize(
    ("change", "status", "name"),
    [
        ({"from": None}, 422, "missing_required_field"),
        ({"to": []}, 422, "missing_required_field"),
        ({"subject": ""}, 422, "missing_required_field"),
        ({"html": None, "text": None}, 422, "missing_required_field"),
        ({"from": "WOPR"}, 422, "invalid_from_address"),
        ({"to": "nobody"}, 422, "validation_error"),
        ({"to": ["a@example.com"] * 51}, 422, "validation_error"),
        ({"subject": "two\nlines"}, 422, "validation_error"),
        ({"colour": "red"}, 422, "validation_error"),
        ({"tags": [{"name": "a b", "value": "c"}]}, 422, "validation_error"),
        ({"attachments": [{"filename": "x"}]}, 422, "invalid_attachment"),
    ],
)
def test_a_malformed_mail_is_refused(post: httpx.Client, change: dict[str, Any], status: int, name: str) -> None:
    answer = post.post("/emails", json=MAIL | change)
    assert (answer.status_code, answer.json()["name"], answer.json()["statusCode"]) == (status, name, status)
    assert post.get("/_emulator/mails").json()["mails"] == []


def test_keys_are_checked(strict: httpx.Client) -> None:
    missing = strict.post("/emails", json=MAIL, headers={"authorization": ""})
    assert (missing.status_code, missing.json()["name"]) == (401, "missing_api_key")
    wrong = strict.post("/emails", json=MAIL, headers={"authorization": "Bearer re_wrong"})
    assert (wrong.status_code, wrong.json()["name"]) == (403, "invalid_api_key")
    assert strict.post("/emails", json=MAIL).status_code == 200


def test_a_strict_stand_in_wants_a_verified_domain(strict: httpx.Client) -> None:
    mail = MAIL | {"from": "hi@mail.example.org"}
    refused = strict.post("/emails", json=mail)
    assert (refused.status_code, "not verified" in refused.json()["message"]) == (403, True)
    made = strict.post("/domains", json={"name": "example.org"})
    assert made.status_code == 201
    assert {r["type"] for r in made.json()["records"]} == {"MX", "TXT"}
    assert strict.post("/emails", json=mail).status_code == 403
    assert strict.post(f"/domains/{made.json()['id']}/verify").json()["object"] == "domain"
    assert strict.get(f"/domains/{made.json()['id']}").json()["status"] == "verified"
    assert strict.post("/emails", json=mail).status_code == 200
    assert {d["name"] for d in strict.get("/domains").json()["data"]} == {"wopr.bot", "example.org"}
    assert strict.post("/domains", json={"name": "example.org"}).status_code == 403
    assert strict.delete(f"/domains/{made.json()['id']}").json()["deleted"] is True


def test_an_idempotency_key_sends_once(post: httpx.Client) -> None:
    key = {"idempotency-key": "welcome/1"}
    first, again = (post.post("/emails", json=MAIL, headers=key) for _ in range(2))
    assert first.json() == again.json()
    assert len(post.get("/_emulator/mails").json()["mails"]) == 1
    other = post.post("/emails", json=MAIL | {"subject": "Other"}, headers=key)
    assert (other.status_code, other.json()["name"]) == (409, "invalid_idempotent_request")


def test_a_batch_is_kept_whole_or_not_at_all(post: httpx.Client) -> None:
    sent = post.post("/emails/batch", json=[MAIL, MAIL | {"subject": "Second"}])
    assert len(sent.json()["data"]) == 2
    assert post.post("/emails/batch", json=[MAIL, {"from": "x"}]).status_code == 422
    assert len(post.get("/emails").json()["data"]) == 2


def test_refusals_come_on_demand_and_end(post: httpx.Client) -> None:
    post.post("/_emulator/refuse", json={"status": 429, "times": 2})
    answers = [post.post("/emails", json=MAIL) for _ in range(3)]
    assert [a.status_code for a in answers] == [429, 429, 200]
    assert answers[0].json()["name"] == "rate_limit_exceeded"
    assert answers[0].headers["retry-after"] == "1"


def test_unknown_addresses_answer_in_resends_shape(post: httpx.Client) -> None:
    assert post.get("/nothing").json()["name"] == "not_found"
    assert post.put("/emails", json={}).status_code == 405
    assert post.get("/emails/unknown").status_code == 404
    assert post.post("/emails", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert post.get("/health").json() == {"status": "ok"}
