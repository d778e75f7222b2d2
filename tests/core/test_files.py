"""The files of the home folder."""

from pathlib import Path

import pytest

from wopr.core.files import SECRETS_FILE, ensure_own_secrets, read_secret, replace_text


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("STRIPE_SECRET_KEY=sk_live_1", "sk_live_1"),
        ("STRIPE_SECRET_KEY = 'sk_live_1'", "sk_live_1"),
        ("# STRIPE_SECRET_KEY=sk_live_1", ""),
        ("STRIPE_SECRET_KEY=", ""),
        ("STRIPE_SECRET_KEY_OLD=sk_live_1", ""),
    ],
)
def test_a_secret_of_the_file_is_read_by_its_name(tmp_path: Path, line: str, value: str) -> None:
    (tmp_path / SECRETS_FILE).write_text(f"OTHER=1\n{line}\n", encoding="utf-8")
    assert read_secret(tmp_path, "STRIPE_SECRET_KEY") == value


def test_without_the_file_there_is_no_secret(tmp_path: Path) -> None:
    assert read_secret(tmp_path, "STRIPE_SECRET_KEY") == ""


def test_own_secrets_are_made_once_and_for_the_owner_only(tmp_path: Path) -> None:
    ensure_own_secrets(tmp_path)
    first = read_secret(tmp_path, "PLATFORM_SECRET")
    ensure_own_secrets(tmp_path)
    assert len(first) == 64
    assert read_secret(tmp_path, "PLATFORM_SECRET") == first
    assert (tmp_path / SECRETS_FILE).stat().st_mode & 0o077 == 0


def test_a_replaced_file_is_whole_and_nobody_elses(tmp_path: Path) -> None:
    replace_text(tmp_path / "a" / "b", "one")
    replace_text(tmp_path / "a" / "b", "two")
    assert (tmp_path / "a" / "b").read_text(encoding="utf-8") == "two"
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0
