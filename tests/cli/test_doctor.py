"""`wopr doctor` finds what is wrong, mends what may be mended, keeps what was there and writes it into the journal."""

import json
import stat
from pathlib import Path

from tests.stack import clean_environment, run_wopr

from wopr.core.files import ensure_own_secrets


def environment(home: Path) -> dict[str, str]:
    return {
        **clean_environment(),
        "WOPR_HOME": str(home),
        "API_URL": "http://localhost:9",
        "UI_URL": "http://localhost:9",
    }


def test_secrets_that_others_can_read_are_closed_to_them(tmp_path: Path) -> None:
    ensure_own_secrets(tmp_path)
    secrets = tmp_path / "secrets.env"
    secrets.chmod(0o644)
    told = run_wopr("doctor", "--dry-run", environment=environment(tmp_path))
    assert "would mend machine.secrets-file" in told.stderr
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o644
    ended = run_wopr("doctor", "--fix", "--json", environment=environment(tmp_path))
    document = json.loads(ended.stdout)
    assert [done["check"] for done in document["mended"]] == ["machine.secrets-file"]
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    logbook = run_wopr("logbook", "show", "--json", environment=environment(tmp_path))
    assert json.loads(logbook.stdout)["operations"][-1]["name"] == "doctor.fix"


def test_missing_secrets_are_generated_and_the_old_file_is_kept(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.env"
    secrets.write_text("PLATFORM_SECRET=mine\n", encoding="utf-8")
    secrets.chmod(0o600)
    run_wopr("doctor", "--fix", environment=environment(tmp_path))
    now = secrets.read_text(encoding="utf-8")
    assert now.startswith("PLATFORM_SECRET=mine\n")
    assert "BETTER_AUTH_SECRET=" in now
    kept = list(tmp_path.glob("secrets.env.*"))
    assert [file.read_text(encoding="utf-8") for file in kept] == ["PLATFORM_SECRET=mine\n"]


def test_what_is_left_is_exit_code_3(tmp_path: Path) -> None:
    ended = run_wopr("doctor", environment=environment(tmp_path))
    assert ended.returncode == 3
    assert "database.reachable" in ended.stderr
