"""Which passwords are accepted."""

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from hypothesis import given
from hypothesis import strategies as st

from wopr.accounts import addresses, passwords
from wopr.core.errors import Invalid

EMAIL = "ada.lovelace@engines.example"


@pytest.mark.parametrize(
    "password",
    [
        "violet anchor tundra biscuit",
        "xK9#mQ2$vL7!",
        "Grüße aus dem Märchenwald",
        "пароль из четырёх слов",
        "no-good-deed-unpunished",
        "ada loves four analytical teapots",
        "a" * 5 + "bcxqwertz!" + "zebra",
        "football lantern football",
        "dragon77x!Q$28471",
    ],
)
def test_a_long_password_that_is_not_easily_guessed_is_fine(password: str) -> None:
    assert passwords.weakness(password, EMAIL) is None


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("elevenchars", "at least 12"),
        ("x" * 257, "at most 256"),
        ("password1234", "most common"),
        ("PASSWORD1234", "most common"),
        ("1qaz2wsx3edc", "most common"),
        ("iloveyouforever", "most common"),
        ("p@ssw0rd2026!", "most common"),
        ("Sunshine2026!!!", "most common"),
        ("!!!dragon19841984", "most common"),
        ("footballfootball", "most common"),
        ("password password", "most common"),
        ("passwordpassword1", "most common"),
        ("Password1Password2", "most common"),
        ("p@ssw0rd!p@ssw0rd?", "most common"),
        ("p-a-s-s-w-o-r-d 2026", "most common"),
        ("2026 dragon 2027 dragon", "most common"),
        ("1q2w3e4r5t6y/1q2w3e4r5t6y", "most common"),
        ("aaaaaaaaaaaaaaaa", "repeats"),
        ("xyzzyxyzzyxyzzy" * 2, "repeats"),
        ("q7#zq7#zq7#zq7#z", "repeats"),
        ("abcdefghijklmn", "sequence"),
        ("zyxwvutsrqponml", "sequence"),
        ("0987654321098", "sequence"),
        ("poiuytrewqlkjh", "sequence"),
        ("ada.lovelace1815", "address"),
        ("LovelaceLovelace!1", "address"),
        ("engines.example1", "address"),
        ("ada.lovelace@engines.example", "address"),
    ],
)
def test_what_is_easily_guessed_is_refused_with_the_reason(password: str, reason: str) -> None:
    assert reason in (passwords.weakness(password, EMAIL) or "fine")


@given(st.text(max_size=300), st.emails())
def test_judging_never_fails_whatever_is_typed(password: str, email: str) -> None:
    assert passwords.weakness(password, email) is None or len(password) >= 0


async def test_the_same_characters_composed_otherwise_are_the_same_password() -> None:
    composed, decomposed = "caf\u00e9 lantern oboe", "cafe\u0301 lantern oboe"
    assert await passwords.verify_password(await passwords.hash_password(composed), decomposed)


def test_where_there_is_no_account_a_comparison_takes_as_much_work() -> None:
    hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, hash_len=32, salt_len=16)
    assert not hasher.check_needs_rehash(passwords._DECOY)
    with pytest.raises(VerifyMismatchError):  # it was worked through, not refused as damaged
        hasher.verify(passwords._DECOY, "no account has this password")


async def test_a_damaged_hash_matches_nothing() -> None:
    assert not await passwords.verify_password("$argon2id$nonsense", "violet anchor tundra biscuit")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (" Ada@Example.COM ", "ada@example.com"),
        ("ada+bots@bücher.example", "ada+bots@xn--bcher-kva.example"),
        ("admin@localhost", "admin@localhost"),
    ],
)
def test_an_address_has_one_spelling(written: str, kept: str) -> None:
    assert addresses.normalise(written) == kept


@given(st.text(max_size=80))
def test_what_is_no_address_is_refused_and_nothing_else_happens(written: str) -> None:
    try:
        kept = addresses.normalise(written)
    except Invalid:
        return
    assert addresses.normalise(kept) == kept
