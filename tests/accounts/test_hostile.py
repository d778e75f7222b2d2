"""Whatever is sent, the answer is an error of ours and never a fault."""

import json

from wopr.accounts.principal import Scope

TEXTS = [
    "\x00",
    "a\x00b@example.com",
    "\ud800",
    "\u202e",
    "x" * 5_000,
    "",
    " ",
    "𝕒@𝕓.test",
    "a@" + "b." * 200 + "c",
    "\n",
]
OTHERS = [None, 0, -1, 1e308, True, [], {}, [[]], {"a": {}}]
BODIES = {
    "/api/auth/sign-up": {"email": "a@example.com", "password": "violet anchor tundra biscuit", "name": "Ada"},
    "/api/auth/sign-in": {"email": "a@example.com", "password": "violet anchor tundra biscuit"},
    "/api/auth/verify": {"token": "x"},
    "/api/auth/one-time": {"token": "x"},
    "/api/auth/reset": {"token": "x", "password": "violet anchor tundra biscuit"},
    "/api/auth/reset-request": {"email": "a@example.com"},
    "/api/account/password": {"current": "a", "new": "violet anchor tundra biscuit"},
    "/api/keys": {"name": "k", "scope": "read", "expires_in_days": 3},
}


async def test_no_value_of_any_field_is_a_fault(world) -> None:
    client = await world.person("ada@example.com")
    for path, good in BODIES.items():
        for field in good:
            for value in [*TEXTS, *OTHERS]:
                world.clock.advance(400)
                body = json.dumps(good | {field: value}).encode()
                answer = await client.post(path, content=body, headers={"content-type": "application/json"})
                assert answer.status_code < 500, (path, field, value)


async def test_no_body_is_a_fault(world) -> None:
    client = await world.client()
    for content in (b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 5_000):
        for path in BODIES:
            answer = await client.post(path, content=content, headers={"content-type": "application/json"})
            assert 400 <= answer.status_code < 500, path


HEADERS: list[dict[str, bytes]] = [
    {"authorization": b"Bearer wopr_\xff\xfe"},
    {"authorization": b"Bearer wopr_read_\x00"},
    {"cookie": b"wopr_session=\xff.\xff"},
    {"cookie": b"wopr_session=" + b"a." * 4_000},
    {"x-forwarded-for": b"\xff, , ,::,1.2.3.4.5"},
    {"user-agent": b"\xff\x00\xfe"},
    {"origin": b"\xff"},
]


async def test_no_header_is_a_fault(world) -> None:
    await world.person("ada@example.com")
    client = await world.client("127.0.0.1")
    del client.headers["origin"]
    body = {"email": "ada@example.com", "password": "violet anchor tundra biscuit"}
    for headers in HEADERS:
        for method, path in (("GET", "/api/auth/session"), ("POST", "/api/auth/sign-in"), ("POST", "/guarded/writer")):
            answer = await client.request(method, path, json=body, headers=headers)
            assert answer.status_code < 500, (path, headers)


async def test_an_error_says_nothing_of_a_secret(world) -> None:
    program = await world.with_key(await world.person("ada@example.com"), Scope.READ)
    secret = program.headers["authorization"].partition(" ")[2]
    for body in ({"email": 1, "password": "violet anchor"}, {"token": ["violet anchor"]}):
        for path in BODIES:
            answer = await program.post(path, json=body)
            assert "violet" not in answer.text
            assert secret not in answer.text
