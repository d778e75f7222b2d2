"""Cookies and origins: how the cookie is set and signed, and which pages may use it to change something."""

import pytest

from wopr.accounts import cookies, origins
from wopr.accounts.principal import Scope
from wopr.core.errors import NotConfigured
from wopr.core.settings import Settings

OURS = {"api_url": "https://api.wopr.bot", "ui_url": "https://wopr.bot", "better_auth_secret": "new,old"}


def settings(**changes: str | None) -> Settings:
    return Settings(**{**OURS, **changes})  # type: ignore[arg-type]


ORIGINS: list[tuple[dict[str, str], int]] = [
    ({"origin": "http://localhost:3000"}, 200),
    ({"origin": "http://localhost:3100"}, 200),
    ({"origin": "http://127.0.0.1:3000"}, 200),
    ({"origin": "http://[::1]:3000"}, 200),
    ({"origin": "http://127.0.0.1:3001"}, 403),
    ({"origin": "http://localhost:3001"}, 403),
    ({"origin": "https://localhost:3000"}, 403),
    ({"origin": "http://localhost:3000.evil.test"}, 403),
    ({"origin": "null"}, 403),
    ({"origin": ""}, 403),
    ({"origin": "http://[", "referer": "http://localhost:3000/"}, 403),
    ({"sec-fetch-site": "same-origin"}, 200),
    ({"sec-fetch-site": "same-site"}, 403),
    ({"sec-fetch-site": "cross-site"}, 403),
    ({"sec-fetch-site": "none"}, 403),
    ({"referer": "http://localhost:3000/keys?x=1"}, 200),
    ({"referer": "http://evil.test/http://localhost:3000/"}, 403),
    ({}, 403),
]


async def test_a_cookie_changes_something_only_from_our_own_pages(world) -> None:
    client = await world.person("ada@example.com")
    del client.headers["origin"]
    for headers, status in ORIGINS:
        assert (await client.post("/guarded/writer", headers=headers)).status_code == status, headers
        assert (await client.get("/guarded/reader", headers=headers)).status_code == 200, headers
        if status == 403:
            assert (await client.post("/api/auth/sign-out", headers=headers)).status_code == 403, headers
    assert (await client.post("/api/auth/sign-out", headers={"sec-fetch-site": "same-origin"})).status_code == 204


async def test_a_key_needs_no_origin(world) -> None:
    program = await world.with_key(await world.person("ada@example.com"), Scope.WRITE)
    assert (await program.post("/guarded/writer", headers={"origin": "https://evil.test"})).status_code == 200


async def test_a_foreign_page_cannot_sign_its_visitor_in(world) -> None:
    await world.person("ada@example.com")
    client = await world.client()
    del client.headers["origin"]
    body = {"email": "ada@example.com", "password": "violet anchor tundra biscuit"}
    for headers in ({"origin": "https://evil.test"}, {"sec-fetch-site": "cross-site"}):
        assert (await client.post("/api/auth/sign-in", json=body, headers=headers)).status_code == 403
    assert (await client.post("/api/auth/sign-in", json=body)).status_code == 200


def test_origins_are_compared_in_one_spelling() -> None:
    ours = origins.allowed_origins(
        settings(allowed_origins=" https://App.Example:443 , http://10.0.0.1:80/ ,,nonsense")
    )
    assert ours == {"https://api.wopr.bot", "https://wopr.bot", "https://app.example", "http://10.0.0.1"}
    assert origins.is_allowed({"origin": "https://WOPR.bot:443"}, ours)
    assert not origins.is_allowed({"origin": "https://wopr.bot:444"}, ours)


@pytest.mark.parametrize(
    ("api_url", "domain", "secure", "shown"),
    [
        ("http://localhost:3100", "", False, None),
        ("http://127.0.0.1:3100", "localhost", False, None),
        ("http://[::1]:3100", "", False, None),
        ("https://localhost:3100", "", True, None),
        ("http://wopr.internal:3100", "", True, None),
        ("https://api.wopr.bot", ".wopr.bot", True, ".wopr.bot"),
    ],
)
def test_the_cookie_is_secure_everywhere_but_on_a_laptop(
    api_url: str, domain: str, secure: bool, shown: str | None
) -> None:
    attributes = cookies.cookie_attributes(settings(api_url=api_url, cookie_domain=domain))
    assert (attributes.secure, attributes.domain) == (secure, shown)


def test_the_first_secret_signs_and_every_secret_verifies_so_that_they_can_be_rotated() -> None:
    both, new, old = settings(), settings(better_auth_secret="new"), settings(better_auth_secret="old")
    assert cookies.verify(both, cookies.sign(old, "token")) == "token"
    assert cookies.verify(new, cookies.sign(both, "token")) == "token"
    assert cookies.verify(old, cookies.sign(both, "token")) is None
    assert cookies.verify(both, cookies.sign(both, "token")[:-2]) is None


def test_without_a_secret_signing_in_says_which_setting_is_missing() -> None:
    with pytest.raises(NotConfigured, match="BETTER_AUTH_SECRET"):
        cookies.sign(settings(better_auth_secret=None), "token")
