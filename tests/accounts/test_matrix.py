"""Every route for every kind of caller: who passes, who is nobody, who may not, and for whom a thing is not there."""

from dataclasses import dataclass

import httpx
import pytest

from wopr.accounts.api import router
from wopr.accounts.principal import Scope
from wopr.core.ids import new_id

CALLERS = (
    "nobody",
    "read key",
    "write key",
    "admin key",
    "bot key",
    "session",
    "other session",
    "unproven",
    "administrator",
    "suspended key",
)
OPEN = dict.fromkeys(CALLERS, 202)


def row(*statuses: int) -> dict[str, int]:
    return dict(zip(CALLERS, statuses, strict=True))


@dataclass(frozen=True)
class Request:
    """One route as the owner of `{key}`, `{session}` and `{tenant}` would call it."""

    method: str
    path: str
    body: dict[str, object] | None
    expected: dict[str, int]


ADDRESS = {"email": "someone@example.com"}
BAD_LINK = {"token": "x" * 43}
READ = row(401, 200, 200, 200, 403, 200, 200, 200, 200, 403)
PERSON = row(401, 403, 403, 403, 403, 200, 200, 200, 200, 403)
ROUTES = [
    Request("POST", "/api/auth/sign-up", ADDRESS | {"password": "violet anchor tundra biscuit"}, OPEN),
    Request("POST", "/api/auth/resend-verification", ADDRESS, OPEN),
    Request("POST", "/api/auth/reset-request", ADDRESS, OPEN),
    Request("POST", "/api/auth/verify", BAD_LINK, dict.fromkeys(CALLERS, 400)),
    Request("POST", "/api/auth/one-time", BAD_LINK, dict.fromkeys(CALLERS, 400)),
    Request("POST", "/api/auth/reset", BAD_LINK | {"password": "violet"}, dict.fromkeys(CALLERS, 400)),
    Request("POST", "/api/auth/sign-in", ADDRESS | {"password": "wrong"}, dict.fromkeys(CALLERS, 401)),
    Request("POST", "/api/auth/sign-out", None, dict.fromkeys(CALLERS, 204)),
    Request("POST", "/api/auth/sign-out-everywhere", None, row(401, 403, 403, 403, 403, 204, 204, 204, 204, 403)),
    Request("GET", "/api/auth/session", None, READ),
    Request("PATCH", "/api/account", {"name": "Ada"}, PERSON),
    Request(
        "POST",
        "/api/account/password",
        {"current": "wrong", "new": "quarry lantern oboe mustard"},
        row(401, 403, 403, 403, 403, 403, 403, 403, 403, 403),
    ),
    Request("GET", "/api/account/sessions", None, PERSON),
    Request("DELETE", "/api/account/sessions/{session}", None, row(401, 403, 403, 403, 403, 204, 404, 404, 404, 403)),
    Request("GET", "/api/keys", None, READ),
    Request("POST", "/api/keys", {"name": "k", "scope": "read"}, row(401, 403, 403, 201, 403, 201, 201, 403, 201, 403)),
    Request("DELETE", "/api/keys/{key}", None, row(401, 403, 403, 204, 403, 204, 404, 404, 404, 403)),
    Request("POST", "/api/admin/tenants/{tenant}/suspend", None, row(401, *[403] * 7, 204, 403)),
    Request("POST", "/api/admin/tenants/{tenant}/reinstate", None, row(401, *[403] * 7, 204, 403)),
    Request("GET", "/guarded/reader", None, READ),
    Request("POST", "/guarded/writer", None, row(401, 403, 200, 200, 403, 200, 200, 200, 200, 403)),
    Request("POST", "/guarded/tenant-admin", None, row(401, 403, 403, 200, 403, 200, 200, 200, 200, 403)),
    Request("GET", "/guarded/platform-admin", None, row(401, *[403] * 7, 200, 403)),
    Request("GET", "/guarded/service", None, dict.fromkeys(CALLERS, 401)),
]


async def everybody(world) -> tuple[dict[str, httpx.AsyncClient], dict[str, str]]:
    owner = await world.person("owner@example.com")
    seen = (await owner.get("/api/auth/session")).json()
    key = (await owner.post("/api/keys", json={"name": "k", "scope": "read"})).json()["key"]["id"]
    root = await world.administrator()
    blocked = await world.with_key(fallen := await world.person("fallen@example.com"), Scope.ADMIN)
    await root.post(f"/api/admin/tenants/{await world.tenant_of(fallen)}/suspend")
    callers = {
        "nobody": await world.client(),
        "read key": await world.with_key(owner, Scope.READ),
        "write key": await world.with_key(owner, Scope.WRITE),
        "admin key": await world.with_key(owner, Scope.ADMIN),
        "bot key": await world.with_key(owner, Scope.WRITE, bot=True),
        "session": owner,
        "other session": await world.person("other@example.com"),
        "unproven": await world.unproven("unproven@example.com"),
        "administrator": root,
        "suspended key": blocked,
    }
    assert set(callers) == set(CALLERS)
    return callers, {"key": key, "session": seen["session"]["id"], "tenant": seen["tenant"]["id"]}


async def test_every_route_answers_every_caller_as_the_table_says(world) -> None:
    wrong = []
    callers, ids = await everybody(world)
    for request in ROUTES:
        for name in sorted(CALLERS, key=lambda caller: caller == "session"):  # the owner last: some routes end it
            world.clock.advance(400)
            client = callers[name]
            answer = await client.request(request.method, request.path.format(**ids), json=request.body)
            if answer.status_code != request.expected[name]:
                wrong.append((request.method, request.path, name, answer.status_code, answer.text))
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"code", "message", "remedy"}
            if request.path.startswith("/api/auth/sign-out") or "{session}" in request.path:
                await sign_in_again(world, client, name)
                ids["session"] = await session_of(callers["session"])
    assert not wrong


async def sign_in_again(world, client: httpx.AsyncClient, name: str) -> None:
    if name == "administrator":
        client.cookies = (await world.administrator()).cookies
    emails = {"session": "owner", "other session": "other", "unproven": "unproven"}
    if name in emails:
        body = {"email": f"{emails[name]}@example.com", "password": "violet anchor tundra biscuit"}
        assert (await client.post("/api/auth/sign-in", json=body)).is_success


async def session_of(client: httpx.AsyncClient) -> str:
    return str((await client.get("/api/auth/session")).json()["session"]["id"])


def test_no_route_is_missing_in_the_table() -> None:
    named = {(request.method, request.path) for request in ROUTES if request.path.startswith("/api")}
    ours = set()
    for route in router.routes:
        path = route.path.replace("session_id", "session").replace("key_id", "key").replace("tenant_id", "tenant")
        ours |= {(method, path) for method in route.methods}
        assert route.operation_id, f"{path} has no operation id"
    assert named == ours


async def test_the_platforms_secret_opens_what_is_between_services(world) -> None:
    client = await world.client()
    for header, status in (
        ("Bearer between services", 200),
        ("Bearer the one before", 200),
        ("Bearer other", 401),
        ("Bearer between services, the one before", 401),
        ("between services", 401),
    ):
        answer = await client.get("/guarded/service", headers={"authorization": header})
        assert answer.status_code == status, header


async def test_a_member_uses_the_account_but_does_not_administer_it(world) -> None:
    member = await world.person("member@example.com")
    await world.scalar("UPDATE memberships SET role = 'member' RETURNING 1")
    assert (await member.post("/guarded/writer")).status_code == 200
    refused = await member.post("/guarded/tenant-admin")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "role")


async def test_who_is_no_member_any_longer_is_signed_out(world) -> None:
    client = await world.person("ada@example.com")
    await world.scalar("DELETE FROM memberships RETURNING 1")
    assert (await client.get("/api/auth/session")).status_code == 401


@pytest.mark.parametrize("path", ["/api/keys/{id}", "/api/account/sessions/{id}"])
async def test_what_never_existed_is_404_and_what_is_no_id_is_422(world, path: str) -> None:
    client = await world.person("ada@example.com")
    assert (await client.delete(path.format(id=new_id()))).status_code == 404
    assert (await client.delete(path.format(id="x"))).status_code == 422


async def test_suspending_an_unknown_customer_is_404(world) -> None:
    root = await world.administrator()
    assert (await root.post(f"/api/admin/tenants/{new_id()}/suspend")).status_code == 404


async def test_a_suspended_customer_can_sign_in_but_its_keys_are_refused_until_reinstated(world) -> None:
    root, ada = await world.administrator(), await world.person("ada@example.com")
    program, tenant = await world.with_key(ada, Scope.READ), await world.tenant_of(ada)
    for _ in range(2):
        assert (await root.post(f"/api/admin/tenants/{tenant}/suspend")).status_code == 204
    assert (await ada.get("/api/auth/session")).json()["tenant"]["suspended"] is True
    refused = await program.get("/api/auth/session")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "suspended")
    assert (await root.post(f"/api/admin/tenants/{tenant}/reinstate")).status_code == 204
    assert (await program.get("/api/auth/session")).status_code == 200
