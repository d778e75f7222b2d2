"""New secrets: old ones stay valid behind them until they are dropped; no value is told or kept anywhere else."""

from pathlib import Path

import pytest

from wopr.core.errors import Invalid
from wopr.delivery.commands import parsed_env
from wopr.delivery.hosts import LocalHost
from wopr.delivery.place import Place
from wopr.delivery.rotate import Wish, newest, rotate, turned
from wopr.ops.journal import Journal


def test_a_new_secret_stands_in_front_of_the_old_ones() -> None:
    assert turned("old,older", "new", keeps=True) == "new,old,older"
    assert turned("old", "new", keeps=False) == "new"
    assert turned("", "new", keeps=True) == "new"
    assert newest("new, old,older") == "new"


async def test_a_secret_is_changed_in_its_file_and_the_journal_knows_no_value(tmp_path: Path) -> None:
    host, place, journal = LocalHost(), Place(str(tmp_path)), Journal(tmp_path)
    (tmp_path / ".env").write_text("# mine\nBETTER_AUTH_SECRET=first-secret-of-32-characters-ok\nA=1\n")
    done = await rotate(host, place, journal, Wish("BETTER_AUTH_SECRET"))
    text = (tmp_path / ".env").read_text()
    new, old = parsed_env(text)["BETTER_AUTH_SECRET"].split(",")
    assert (old, len(new), done.kept) == ("first-secret-of-32-characters-ok", 64, 1)
    assert text.startswith("# mine\n")
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    dropped = await rotate(host, place, journal, Wish("BETTER_AUTH_SECRET", drop_old=True))
    assert (dropped.kept, dropped.dropped) == (0, 1)
    assert parsed_env((tmp_path / ".env").read_text())["BETTER_AUTH_SECRET"] == new
    written = (tmp_path / "journal.jsonl").read_text()
    assert "secrets.rotate" in written
    assert "BETTER_AUTH_SECRET" in written, "which one was changed is no secret"
    assert new not in written
    assert old not in written


async def test_a_secret_of_somebody_else_is_not_made_here(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refused:
        await rotate(LocalHost(), Place(str(tmp_path)), Journal(tmp_path), Wish("STRIPE_SECRET_KEY"))
    assert refused.value.remedy
