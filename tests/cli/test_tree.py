"""Every command keeps the conventions: help with an example, --json, --dry-run where something changes, exit codes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.stack import run_wopr
from typer.core import TyperCommand, TyperGroup

from wopr.cli.root import build

# Servers run until they are stopped; they have no result to write.
SERVERS = {"wopr api", "wopr ui", "wopr engine", "wopr emulators stripe", "wopr emulators resend", "wopr emulators all"}
CHANGING_VERBS = {
    "register",
    "remove",
    "create",
    "start",
    "stop",
    "restart",
    "rm",
    "pull",
    "apply",
    "up",
    "link",
    "render",
    "open",
    "note",
    "decide",
    "resolve",
    "say",
}
ESCAPE = re.compile(r"\x1b\[")


def commands() -> Iterator[tuple[str, TyperCommand]]:
    def walk(path: str, node: object) -> Iterator[tuple[str, TyperCommand]]:
        if isinstance(node, TyperGroup):
            for name, child in sorted(node.commands.items()):
                yield from walk(f"{path} {name}", child)
        elif isinstance(node, TyperCommand):
            yield path, node

    yield from walk("wopr", build())


TREE = dict(commands())


def test_the_tree_has_every_group() -> None:
    first_words = {path.split()[1] for path in TREE}
    engines = {"nodes", "models", "engine", "emulators"}
    wanted = {"up", "api", "ui", "status", "smoke", "check", "bots", "admin", "logbook"} | engines
    assert wanted <= first_words


@pytest.mark.parametrize("path", TREE)
def test_a_command_says_what_it_does_and_shows_an_example(path: str) -> None:
    command = TREE[path]
    assert command.help
    assert command.epilog, "has no example"
    assert "wopr " in command.epilog


@pytest.mark.parametrize("path", [path for path in TREE if path not in SERVERS])
def test_a_command_can_answer_in_json(path: str) -> None:
    assert "--json" in {option for parameter in TREE[path].params for option in parameter.opts}


@pytest.mark.parametrize("path", [path for path in TREE if path.split()[-1] in CHANGING_VERBS])
def test_a_changing_command_can_say_what_it_would_do(path: str) -> None:
    assert "--dry-run" in {option for parameter in TREE[path].params for option in parameter.opts}


@pytest.mark.parametrize("path", TREE)
def test_every_option_is_explained(path: str) -> None:
    for parameter in TREE[path].params:
        if parameter.param_type_name == "option" and "--help" not in parameter.opts:
            assert getattr(parameter, "help", None), f"{parameter.opts} has no help"


def test_help_has_no_escape_codes_when_piped_and_ends_well() -> None:
    ended = run_wopr("--help")
    assert ended.returncode == 0
    assert "up" in ended.stdout
    assert not ESCAPE.search(ended.stdout + ended.stderr)


def test_a_typo_gets_a_suggestion_and_exit_code_2() -> None:
    ended = run_wopr("stauts")
    assert ended.returncode == 2
    assert "status" in ended.stderr


def test_status_without_anything_running_says_how_to_start(tmp_path: object) -> None:
    from tests.stack import clean_environment, free_ports

    ports = {f"{name.upper()}_PORT": str(port) for name, port in free_ports().items()}
    urls = {"API_URL": f"http://localhost:{ports['API_PORT']}", "UI_URL": f"http://localhost:{ports['UI_PORT']}"}
    ended = run_wopr("status", environment={**clean_environment(), **ports, **urls, "WOPR_HOME": str(tmp_path)})
    assert ended.returncode == 1
    assert "wopr up" in ended.stderr
    as_json = run_wopr(
        "status", "--json", environment={**clean_environment(), **ports, **urls, "WOPR_HOME": str(tmp_path)}
    )
    document = json.loads(as_json.stdout)
    assert document["ok"] is False
    assert {service["name"] for service in document["services"]} >= {"api", "ui", "llama", "database"}


@pytest.mark.parametrize("command", [("nodes", "list"), ("admin", "list"), ("migrate", "status")])
def test_a_database_that_is_away_is_said_so_with_the_remedy(command: tuple[str, ...], tmp_path: object) -> None:
    from tests.stack import clean_environment

    gone = {"DATABASE_URL": "postgresql://wopr:secret@127.0.0.1:1/wopr_platform", "WOPR_HOME": str(tmp_path)}
    ended = run_wopr(*command, environment={**clean_environment(), **gone})
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "fix: wopr up" in ended.stderr
    assert "secret" not in ended.stderr


def test_pages_of_the_logbook_can_be_rehearsed(tmp_path: Path) -> None:
    from tests.stack import clean_environment

    environment = {**clean_environment(), "WOPR_HOME": str(tmp_path)}
    rehearsed = run_wopr("logbook", "render", "--dry-run", "--json", environment=environment)
    assert json.loads(rehearsed.stdout)["pages"][:2] == ["DECISIONS.md", "DEPLOYMENTS.md"]
    assert not (tmp_path / "logbook").exists()
    assert run_wopr("logbook", "render", environment=environment).returncode == 0
    assert (tmp_path / "logbook" / "OPERATIONS.md").exists()


def test_what_a_stand_in_is_made_to_do_is_in_the_journal_and_a_rehearsal_is_not(tmp_path: Path) -> None:
    from tests.stack import clean_environment

    environment = {**clean_environment(), "WOPR_HOME": str(tmp_path)}
    nobody = ("--url", "http://127.0.0.1:1", "--days", "31")
    assert run_wopr("trigger", "clock", *nobody, "--dry-run", environment=environment).returncode == 1
    assert not (tmp_path / "journal.jsonl").exists()
    assert run_wopr("trigger", "clock", *nobody, environment=environment).returncode == 1
    shown = run_wopr("logbook", "show", "--json", environment=environment)
    assert [(o["name"], o["outcome"]) for o in json.loads(shown.stdout)["operations"]] == [("trigger.clock", "failed")]


def test_real_keys_in_the_secrets_file_leave_the_stand_in_out(tmp_path: Path) -> None:
    from tests.stack import clean_environment

    (tmp_path / "secrets.env").write_text("STRIPE_SECRET_KEY=sk_live_1\n", encoding="utf-8")
    ended = run_wopr("up", "--home", str(tmp_path), "--dry-run", "--json", environment=clean_environment())
    processes = json.loads(ended.stdout)["processes"]
    assert "resend" in processes
    assert not {"stripe", "stand-ins"} & set(processes)


def test_logbook_of_an_empty_folder_is_an_empty_state(tmp_path: object) -> None:
    from tests.stack import clean_environment

    ended = run_wopr("logbook", "show", environment={**clean_environment(), "WOPR_HOME": str(tmp_path)})
    assert ended.returncode == 0
    assert "Nothing was recorded yet" in ended.stderr
