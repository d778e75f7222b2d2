"""Sealed secrets open only with the right secret, for the right purpose and in the right row."""

import pytest

from wopr.core.vault import Vault, VaultError

ROW = b"row 1"


def test_what_was_sealed_opens_and_never_looks_the_same_twice() -> None:
    vault = Vault("secret", "tests")
    one, two = vault.seal("wopr_bot_abc", ROW), vault.seal("wopr_bot_abc", ROW)
    assert one != two
    assert vault.open(one, ROW) == vault.open(two, ROW) == "wopr_bot_abc"


@pytest.mark.parametrize(
    ("vault", "context"),
    [(Vault("secret", "tests"), b"row 2"), (Vault("other", "tests"), ROW), (Vault("secret", "other"), ROW)],
    ids=["row", "secret", "purpose"],
)
def test_elsewhere_it_does_not_open(vault: Vault, context: bytes) -> None:
    sealed = Vault("secret", "tests").seal("wopr_bot_abc", ROW)
    with pytest.raises(VaultError):
        vault.open(sealed, context)


def test_damage_is_noticed_at_every_byte() -> None:
    vault = Vault("secret", "tests")
    sealed = vault.seal("abc", ROW)
    for position in range(len(sealed)):
        damaged = sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :]
        with pytest.raises(VaultError):
            vault.open(damaged, ROW)
    for length in range(len(sealed)):
        with pytest.raises(VaultError):
            vault.open(sealed[:length], ROW)


def test_a_new_secret_seals_while_the_old_one_still_opens() -> None:
    old = Vault("old", "tests").seal("abc", ROW)
    both = Vault("new, old", "tests")
    assert both.open(old, ROW) == "abc"
    assert Vault("new", "tests").open(both.seal("abc", ROW), ROW) == "abc"
