"""Every route of the OpenAPI document for those who must not pass: nobody, strangers, keys for reading, bots.

The routes come from the running platform, so that a new one is tried without anybody thinking of it.
"""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.live import Person, sign_up, visitor
from tests.stack import Stack

pytestmark = pytest.mark.slow

# What is looked at, and costs credit all the same: the answer is spoken when it is asked for.
LOOKING_THAT_SPENDS = {"turns_audio"}
# What the gateway charges for.
METERED = ("chat/completions", "completions", "embeddings", "audio/speech", "audio/transcriptions")
# Signing out needs no session: who has none is signed out.
FOR_NOBODY_TOO = {"auth_sign_out"}
# Rented machines show secrets of their own; everybody else is nobody to them.
FOR_MACHINES = {"nodes_bootstrap", "nodes_report"}
# Valid bodies, so that a refusal is one of the caller and not of what was sent.
BODIES: dict[str, Any] = {
    "bots_create": {"name": "mine"},
    "bots_update": {"name": "mine now"},
    "turns_create": {"text": "Who are you?"},
    "keys_create": {"name": "mine", "scope": "admin", "expires_in_days": None},
    "account_update": {"name": "Mallory"},
    "account_change_password": {"current": "x", "new": "y"},
    "billing_checkout": {"mode": "subscription"},
    "billing_checkout_confirm": {"session_id": "cs_test_none"},
    "billing_portal": {},
    "admin_tenants_credit": {"amount_usd": "1000", "reason": "because"},
    "nodes_register": {"id": "mallory", "host": "127.0.0.1"},
}


@dataclass(frozen=True)
class Operation:
    """One route and method; `path` has the customer's own objects filled in."""

    id: str
    method: str
    path: str
    closed: bool
    of_an_object: bool
    for_administrators: bool

    def call(self, http: httpx.Client, headers: dict[str, str] | None = None) -> httpx.Response:
        if self.id == "transcriptions_create":
            sound = {"content-type": "audio/wav"} | (headers or {})
            return http.request(self.method, self.path, content=b"RIFF", headers=sound)
        body = BODIES.get(self.id, {}) if self.method in ("POST", "PATCH", "PUT") else None
        return http.request(self.method, self.path, json=body, headers=headers)


@pytest.fixture(scope="module")
def objects(customer: Person) -> dict[str, str]:
    """One real object of the customer for each kind that paths name."""
    bot = customer.make_bot()
    turn = customer.ask(bot, "Hello")
    key, _ = customer.make_key()
    session = customer.get("/api/account/sessions")["sessions"][0]["id"]
    own = {"bot_id": bot, "turn_id": turn["turn_id"], "conversation_id": turn["conversation_id"], "key_id": key}
    return own | {"session_id": session, "tenant_id": customer.tenant_id, "node_id": "local", "event_id": "evt_1"}


@pytest.fixture(scope="module")
def operations(live: Stack, objects: dict[str, str]) -> list[Operation]:
    document = httpx.get(f"{live.api}/openapi.json", timeout=60).json()
    found = []
    for path, methods in document["paths"].items():
        names = re.findall(r"{(\w+)}", path)
        for name in names:
            objects.setdefault(name, str(uuid.uuid4()))
        for method, about in methods.items():
            filled = path.format(**objects)
            closed = bool(about.get("security"))
            is_admin = path.startswith("/api/admin")
            found.append(Operation(about["operationId"], method.upper(), filled, closed, bool(names), is_admin))
    return found


@pytest.fixture(scope="module")
def stranger(live: Stack) -> Iterator[Person]:
    """A customer who pays as well, and owns nothing of the other's."""
    with sign_up(live, "Mallory") as person:
        person.pay()
        yield person


@pytest.fixture(scope="module")
def nobody(live: Stack) -> Iterator[httpx.Client]:
    with visitor(live) as http:
        yield http


def wrong(operation: Operation, answer: httpx.Response) -> str:
    return f"{operation.method} {operation.path} ({operation.id}): {answer.status_code} {answer.text[:120]}"


def test_every_operation_has_an_id_of_its_own(operations: list[Operation]) -> None:
    ids = [operation.id for operation in operations]
    assert len(ids) == len(set(ids)) > 50
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", one) for one in ids)


def test_nobody_passes_where_somebody_is_asked_for(operations: list[Operation], nobody: httpx.Client) -> None:
    tried = [(operation, operation.call(nobody)) for operation in operations]
    closed = [(o, a) for o, a in tried if o.closed and o.id not in FOR_NOBODY_TOO]
    assert len(closed) > 40
    assert [wrong(o, a) for o, a in closed if a.status_code != 401] == []
    assert [wrong(o, a) for o, a in tried if a.status_code >= 500] == []


def test_a_key_that_is_none_of_ours_opens_nothing(operations: list[Operation], nobody: httpx.Client) -> None:
    forged = {"authorization": "Bearer wopr_admin_" + "A" * 43}
    tried = [(operation, operation.call(nobody, forged)) for operation in operations if operation.closed]
    bad = [wrong(o, a) for o, a in tried if a.status_code != 401 and o.id not in FOR_NOBODY_TOO]
    assert bad == []


def test_anothers_object_is_not_there_and_administration_is_closed(
    operations: list[Operation], stranger: Person, customer: Person, objects: dict[str, str]
) -> None:
    bad = []
    for operation in operations:
        if operation.for_administrators:
            answer, expected = operation.call(stranger.http), 403
        elif operation.of_an_object:
            answer, expected = operation.call(stranger.http), 404
        else:
            continue
        if answer.status_code != expected:
            bad.append(f"{wrong(operation, answer)} instead of {expected}")
    assert bad == []
    assert customer.get(f"/fleet/bots/{objects['bot_id']}")["desired"] == "running"


def test_a_key_for_reading_changes_nothing(operations: list[Operation], customer: Person, nobody: httpx.Client) -> None:
    reading = {"authorization": f"Bearer {customer.make_key('read')[1]}"}
    bad = []
    for operation in operations:
        if not operation.closed or operation.id in FOR_NOBODY_TOO | FOR_MACHINES:
            continue
        answer = operation.call(nobody, reading)
        looks = operation.method == "GET" and operation.id not in LOOKING_THAT_SPENDS
        allowed = looks and not operation.for_administrators
        if answer.status_code >= 500 or (not allowed and answer.status_code != 403):
            bad.append(wrong(operation, answer))
    assert bad == []


def test_a_key_for_reading_spends_nothing(customer: Person, nobody: httpx.Client) -> None:
    key, secret = customer.make_key("read")
    reading = {"authorization": f"Bearer {secret}"}
    for path in METERED:
        body = {"model": "handbook", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi", "prompt": "Hi"}
        answer = nobody.post(f"/v1/{path}", json=body, headers=reading)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_scope"), path
    listed = nobody.get("/api/keys", headers=reading).json()["keys"]
    assert [one["spend_usd"] for one in listed if one["id"] == key] == ["0.00"]


def test_a_bots_own_key_opens_the_gateway_and_nothing_else(
    live: Stack, operations: list[Operation], objects: dict[str, str], nobody: httpx.Client
) -> None:
    secret = service_key(live.home, objects["bot_id"])
    mine = {"authorization": f"Bearer {secret}"}
    assert nobody.get("/v1/models", headers=mine).status_code == 200
    closed = [operation for operation in operations if operation.closed and operation.id not in FOR_MACHINES]
    tried = [(operation, operation.call(nobody, mine)) for operation in closed]
    assert [wrong(o, a) for o, a in tried if a.status_code != 403 and o.id not in FOR_NOBODY_TOO] == []


def test_a_form_of_another_site_changes_nothing(operations: list[Operation], customer: Person) -> None:
    foreign = {"origin": "https://evil.example"}
    bad = []
    for operation in operations:
        if operation.method == "GET" or not operation.closed or operation.id in FOR_MACHINES:
            continue
        answer = operation.call(customer.http, foreign)
        if answer.status_code != 403:
            bad.append(wrong(operation, answer))
    assert bad == []


def service_key(home: Path, bot_id: str) -> str:
    """The key with which a bot reaches the gateway, out of its process's environment."""
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if environment.get("WOPR_BOT_ID") == bot_id and environment["WOPR_BOT_DATA"].startswith(str(home)):
            return environment["WOPR_SERVICE_KEY"]
    raise AssertionError("the bot has no process")
