"""Every command keeps the conventions: help with an example, --json, --dry-run, --progress, --exit-code, exit codes.

What a command need not have is declared in the tables below, with the reason; a new command needs everything.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.stack import run_wopr
from typer.core import TyperCommand, TyperGroup
from typer.testing import CliRunner

import wopr.cli
from wopr.cli.root import app, build

# Servers run until they are stopped; they have no result to write.
SERVERS = {"wopr api", "wopr ui", "wopr engine"}
SERVERS |= {f"wopr emulators {name}" for name in ("stripe", "resend", "digitalocean", "cloudflare", "all")}
# Runs another command, which has all of that itself.
THROUGH = {"wopr exec"}
# Commands that change nothing: no --dry-run, and nothing that could be done already.
READING = {
    *(f"wopr {noun} list" for noun in ("admin", "bots", "dns", "images", "incident", "models", "nodes", "secrets")),
    *(f"wopr {noun} show" for noun in ("bots", "incident", "lock", "logbook", "nodes")),
    *("wopr nodes logs", "wopr nodes sizes"),
    "wopr nodes ssh-key",
    *("wopr local cloud", "wopr local logs", "wopr local status"),
    *("wopr bots image list", "wopr bots logs", "wopr logbook verify", "wopr migrate status"),
    *("wopr certs status", "wopr check", "wopr completion", "wopr dns check", "wopr releases", "wopr status"),
    "wopr smoke",  # walks as a customer of its own, and deletes the bot that it made
}
# Commands that end within a second: a row, a file, a line of the journal. The others have --progress.
QUICK = {
    *(READING - {"wopr certs status", "wopr check", "wopr dns check", "wopr smoke"}),
    *("wopr admin create", "wopr admin link", "wopr nodes register", "wopr nodes remove", "wopr models rm"),
    *("wopr nodes cordon", "wopr nodes uncordon", "wopr nodes repair"),
    *("wopr logbook decide", "wopr logbook note", "wopr logbook render"),
    *("wopr incident note", "wopr incident open", "wopr incident resolve", "wopr lock release"),
    *("wopr local seed", "wopr secrets rotate"),
    *THROUGH,
    *(SERVERS - {"wopr engine"}),  # an engine may load weights for minutes
}
# Changing commands that do something each time: there is no "nothing to do", so no --exit-code.
EACH_TIME = {
    "wopr migrate dump",
    *("wopr admin link", "wopr bots create", "wopr bots restart", "wopr bots say", "wopr images push"),
    *("wopr incident note", "wopr incident open", "wopr logbook decide", "wopr logbook note"),
    *("wopr rollback", "wopr secrets rotate", "wopr trigger clock", "wopr trigger stripe"),
    *("wopr trigger node", "wopr nodes provision", "wopr nodes reboot", "wopr nodes retry", "wopr nodes repair"),
    "wopr local seed",
}
# What else a verb is called; the alias is hidden and takes the same options.
ALIASES = {"ls": ("list",), "rm": ("remove",), "remove": ("rm",), "delete": ("rm", "remove")}
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
VISIBLE = [path for path, command in TREE.items() if not command.hidden]
HIDDEN = [path for path, command in TREE.items() if command.hidden]


def options(path: str) -> set[str]:
    every = {option for parameter in TREE[path].params for option in (*parameter.opts, *parameter.secondary_opts)}
    return {option for option in every if option.startswith("-")}


def in_process(*arguments: str) -> tuple[int, str]:
    """Exit code and everything that was written, by the tree in this process with nobody at the terminal."""
    ended = CliRunner().invoke(app, list(arguments), prog_name="wopr")
    return ended.exit_code, ended.output


def test_the_tables_name_only_commands_that_exist() -> None:
    assert set(VISIBLE) >= SERVERS | READING | QUICK | EACH_TIME | THROUGH


def test_the_tree_has_every_group() -> None:
    first_words = {path.split()[1] for path in TREE}
    engines = {"nodes", "models", "engine", "emulators"}
    wanted = {"up", "api", "ui", "status", "smoke", "check", "bots", "admin", "logbook"} | engines
    assert wanted <= first_words


@pytest.mark.parametrize("path", TREE)
def test_a_command_says_what_it_does_and_shows_examples_that_exist(path: str) -> None:
    command = TREE[path]
    assert command.help
    assert command.epilog, "has no example"
    code, text = in_process(*path.split()[1:], "--help")
    assert code == 0
    assert not ESCAPE.search(text)
    assert command.epilog.split()[-1] in text
    examples = [example for example in re.split(r" \| |Examples?: ", command.epilog) if example.startswith("wopr ")]
    assert examples
    for example in examples:
        assert example.startswith(path), f"{example} is another command"
        unknown = set(re.findall(r"(?<=\s)--[a-z-]+", example.partition(" && ")[0])) - options(path)
        assert not unknown, f"{example} has no {', '.join(unknown)}"


@pytest.mark.parametrize("group", [(), ("lock",), ("migrate",), ("secrets",)])
def test_a_list_of_commands_ends_no_sentence_in_the_middle(group: tuple[str, ...]) -> None:
    listed = run_wopr(*group, "--help").stdout.partition("Commands:")[2]
    assert listed
    assert "..." not in listed


@pytest.mark.parametrize("path", [path for path in TREE if path not in SERVERS | THROUGH])
def test_a_command_can_answer_in_json(path: str) -> None:
    assert "--json" in options(path)


@pytest.mark.parametrize("path", [path for path in VISIBLE if path not in SERVERS | READING])
def test_a_changing_command_can_say_what_it_would_do(path: str) -> None:
    assert "--dry-run" in options(path)


@pytest.mark.parametrize("path", [path for path in VISIBLE if path not in QUICK])
def test_a_long_command_tells_how_far_it_is(path: str) -> None:
    progress = next((parameter for parameter in TREE[path].params if "--progress" in parameter.opts), None)
    assert progress, "may take longer than a second, or belongs into QUICK"
    code, text = in_process(*path.split()[1:], "--progress", "loud")
    assert code == 2
    for kind in ("auto", "tty", "plain", "json", "quiet"):
        assert kind in text


@pytest.mark.parametrize("path", [path for path in VISIBLE if path not in SERVERS | READING | EACH_TIME | THROUGH])
def test_an_idempotent_command_tells_that_nothing_was_to_do_when_it_is_asked(path: str) -> None:
    assert "--exit-code" in options(path)


@pytest.mark.parametrize("path", HIDDEN)
def test_a_hidden_command_is_an_alias_with_the_same_options(path: str) -> None:
    group, _, verb = path.rpartition(" ")
    meant = [f"{group} {name}" for name in ALIASES[verb] if f"{group} {name}" in VISIBLE]
    assert len(meant) == 1
    assert options(path) == options(meant[0])


@pytest.mark.parametrize("path", VISIBLE)
def test_the_usual_aliases_are_understood(path: str) -> None:
    group, _, verb = path.rpartition(" ")
    for alias, meant in ALIASES.items():
        if verb in meant and group != "wopr":
            assert f"{group} {alias}" in TREE


# Of a node several ports are given, each with its service: that is refused in words of its own.
SEVERAL_PORTS = {"wopr nodes register"}
PORTS = [
    (path, option)
    for path in VISIBLE
    if path not in SEVERAL_PORTS
    for option in sorted(options(path))
    if option.endswith("port")
]


@pytest.mark.parametrize(("path", "option"), PORTS)
def test_what_is_no_port_is_refused(path: str, option: str) -> None:
    needed = ["llama" for parameter in TREE[path].params if parameter.param_type_name == "argument"]
    for number in ("-1", "70000"):
        code, text = in_process(*path.split()[1:], *needed, option, number)
        assert (code, option in text) == (2, True), text


@pytest.mark.parametrize("path", TREE)
def test_every_option_is_explained(path: str) -> None:
    for parameter in TREE[path].params:
        if parameter.param_type_name == "option" and "--help" not in parameter.opts:
            assert getattr(parameter, "help", None), f"{parameter.opts} has no help"


@pytest.mark.parametrize("path", [path for path in TREE if any(p.required for p in TREE[path].params)])
def test_what_is_missing_is_named_instead_of_asked_for(path: str) -> None:
    code, text = in_process(*path.split()[1:])
    assert code == 2
    assert "Missing" in text
    assert f"Try 'wopr {path.removeprefix('wopr ')} -h'" in text


def test_only_one_place_asks_and_it_names_the_flag_where_nobody_can_answer() -> None:
    asking = set()
    for file in Path(wopr.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in ("input", "typer.confirm", "typer.prompt", "typer.getchar", "getpass.getpass", "getpass"):
                asking.add((file.name, name))
    assert asking == {("output.py", "typer.confirm")}


@pytest.mark.parametrize("path", [path for path in VISIBLE if path.split()[-1] in ("rm", "remove")])
def test_what_destroys_can_be_confirmed_beforehand(path: str) -> None:
    assert {"--yes", "-y"} <= options(path)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (("stauts",), "status"),
        (("bots", "lst"), "list"),
        (("models", "pul"), "pull"),
        (("status", "--jsno"), "--json"),
        (("smoke", "--progess", "plain"), "--progress"),
    ],
)
def test_a_typo_gets_a_suggestion_and_exit_code_2(typed: tuple[str, ...], meant: str) -> None:
    code, text = in_process(*typed)
    assert code == 2
    assert meant in text.splitlines()[-1]


def test_the_version_needs_no_command() -> None:
    told = run_wopr("--version")
    assert (told.returncode, told.stderr) == (0, "")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", told.stdout)


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


def test_the_error_is_last_also_where_a_stage_was_told(tmp_path: Path) -> None:
    from tests.stack import clean_environment

    environment = {**clean_environment(), "WOPR_HOME": str(tmp_path)}
    nobody = ("trigger", "stripe", "charge.refunded", "--url", "http://127.0.0.1:1", "--dry-run", "--progress", "plain")
    told = run_wopr(*nobody, environment=environment).stderr.splitlines()
    assert "FAILED" in told[0]
    assert told[1].startswith("error: The Stripe stand-in does not answer")
    assert told[-1] == "  fix: wopr up"


def test_a_secret_that_is_not_ours_to_make_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    for more in ((), ("--dry-run",)):
        refused = run_wopr("secrets", "rotate", "STRIPE_SECRET_KEY", "--dir", str(tmp_path), *more)
        assert refused.returncode == 1
        assert "is not a secret that wopr can make" in refused.stderr


def test_a_node_that_does_not_run_cannot_be_made_to_hang(tmp_path: Path) -> None:
    from tests.stack import clean_environment

    environment = {**clean_environment(), "WOPR_HOME": str(tmp_path)}
    ended = run_wopr("trigger", "node", "hang", environment=environment)
    assert ended.returncode == 1
    assert "`wopr up` does not run" in ended.stderr
    assert ended.stderr.rstrip().endswith("fix: wopr up")
    assert not (tmp_path / "journal.jsonl").exists()


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
