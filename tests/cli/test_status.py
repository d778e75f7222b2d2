"""`wopr status` knows whether the database lets us in, and follows in the form that was asked for."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.stack import clean_environment, free_ports, run_wopr


def nothing_but(database: str, home: Path) -> dict[str, str]:
    """An environment in which nothing runs but perhaps a database."""
    ports = {f"{name.upper()}_PORT": str(port) for name, port in free_ports().items()}
    nowhere = {"API_URL": "http://127.0.0.1:1", "UI_URL": "http://127.0.0.1:1", "WOPR_HOME": str(home)}
    return {**clean_environment(), **ports, **nowhere, "DATABASE_URL": database}


def database_row(url: str, home: Path) -> dict[str, str]:
    """What it says of the database; nothing that it wrote may have the password."""
    told = run_wopr("status", "--json", environment=nothing_but(url, home))
    assert (urlsplit(url).password or "no password") not in told.stdout + told.stderr
    return next(row for row in json.loads(told.stdout)["services"] if row["name"] == "database")


def test_a_database_that_lets_us_in_is_ok(database_address: str, tmp_path: Path) -> None:
    assert database_row(database_address, tmp_path)["state"] == "ok"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"user": "somebody", "password": "much-whispered"}, "somebody"),
        ({"database": "not_there"}, "not_there"),
        ({"port": 1}, "1"),
    ],
)
def test_one_that_refuses_is_down_with_the_reason(
    postgres_url: str, tmp_path: Path, wrong: dict[str, str], reason: str
) -> None:
    url = urlsplit(postgres_url)
    parts = {"user": url.username, "password": url.password, "port": url.port, "database": "postgres"} | wrong
    row = database_row("postgresql://{user}:{password}@127.0.0.1:{port}/{database}".format(**parts), tmp_path)
    assert row["state"] == "down"
    assert reason in row["detail"]


def test_following_in_json_is_a_line_for_each_look(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wopr", "status", "--watch", "--json"]
    environment = nothing_but("postgresql://127.0.0.1:1/x", tmp_path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            assert process.stdout is not None
            for _ in range(2):
                assert json.loads(process.stdout.readline())["ok"] is False
        finally:
            process.kill()
