"""`wopr rehearse` before anything runs: what it would do, what it refuses; and how it runs and reports commands."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from tests.live import missing
from tests.stack import clean_environment, run_wopr

from wopr.cli.rehearse_commands import Command, Ran, Runner, StepFailed, wopr
from wopr.cli.rehearse_env import Wish
from wopr.cli.rehearse_stage import LOCK, Stage
from wopr.cli.rehearse_steps import STEPS, Play, check, checked
from wopr.cli.supervisor import RunFile
from wopr.core.postgres import free_port
from wopr.emulators.registry import Registry

CHECKOUT = Path(__file__).parents[2]


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**clean_environment(), "WOPR_HOME": str(home), **more}


def test_every_step_is_told_with_its_commands_before_anything_is_done(tmp_path: Path) -> None:
    told = run_wopr("rehearse", "--dry-run", "--json", "--source", str(CHECKOUT), environment=environment(tmp_path))
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    assert [step["step"] for step in document["steps"]] == [step.name for step in STEPS]
    typed = [command for step in document["steps"] for command in step["commands"]]
    order = ("images push", "machine provision vps", "dns apply", "wopr deploy", "nodes provision", "wopr smoke")
    places = [next(n for n, command in enumerate(typed) if words in command) for words in (*order, "wopr rollback")]
    assert places == sorted(places)
    assert document["dir"] == str(tmp_path / "rehearsal")
    assert not (tmp_path / "rehearsal").exists()


def test_images_come_from_a_checkout_or_are_named(tmp_path: Path) -> None:
    nothing = run_wopr("rehearse", "--dry-run", "--source", str(tmp_path), environment=environment(tmp_path))
    assert nothing.returncode == 2
    assert "--image and --bot" in nothing.stderr
    one = run_wopr("rehearse", "--dry-run", "--image", "ours:latest", environment=environment(tmp_path))
    assert (one.returncode, "go together" in one.stderr) == (2, True)


def test_programs_that_are_missing_are_named_with_their_packages(tmp_path: Path) -> None:
    bare = environment(tmp_path, PATH=str(tmp_path))
    refused = run_wopr("rehearse", "--source", str(CHECKOUT), environment=bare)
    assert refused.returncode == 1
    assert "docker, ssh, pebble, docker-registry, htpasswd" in refused.stderr
    assert "apt-get install docker.io openssh-client pebble docker-registry apache2-utils" in refused.stderr


def test_a_rehearsal_is_not_the_installation_that_the_operator_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Stage(tmp_path, "wopr.test").installation
    monkeypatch.setenv("WOPR_INSTALLATION", "mine")
    assert Stage(tmp_path, "wopr.test").installation == ours, "it sweeps away every machine that has its name"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    refused = run_wopr(
        "rehearse", "--source", str(CHECKOUT), "--dir", str(tmp_path), environment=environment(tmp_path / "home")
    )
    assert refused.returncode == 1
    assert "no folder of a rehearsal" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_the_proof_of_the_one_before_is_put_aside(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "rehearsal", "wopr.bot")
    with stage.held():
        (stage.folder / "journal.jsonl").write_text("{}\n")
        (stage.folder / "logbook").mkdir()
        stage.put_aside()
        stage.put_aside()
    assert {path.name for path in stage.folder.iterdir()} == {LOCK, "earlier"}
    (aside,) = (stage.folder / "earlier").iterdir()
    assert {path.name for path in aside.iterdir()} == {"journal.jsonl", "logbook"}


@pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")  # it outlives who starts it
def test_the_registry_listens_where_it_is_needed_and_nowhere_else(tmp_path: Path) -> None:
    for program in ("docker-registry", "htpasswd"):
        if shutil.which(program) is None:
            missing(program)
    stage = Stage(tmp_path, "example.com")
    # Where this machine has no network of a rehearsal, another address of its loopback stands for it.
    registry = Registry(tmp_path / "registry", ("127.0.0.1", "127.0.0.2"), free_port(), stage.password)
    try:
        stage._begin_registry(registry)
        listening = {c.laddr[:2] for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        assert {host for host, port in listening if port == registry.port} == {"127.0.0.1", "127.0.0.2"}
        pushed, wanted = (f"http://{host}:{registry.port}/v2/ours/image" for host in registry.hosts)
        with httpx.Client(auth=("robot", stage.password)) as http:
            begun = http.post(f"{pushed}/blobs/uploads/")
            blob = f"sha256:{hashlib.sha256(b'layer').hexdigest()}"
            done = http.put(f"{begun.headers['location']}&digest={blob}", content=b"layer")
            assert done.status_code == 201, done.text
            assert http.get(f"{wanted}/blobs/{blob}").content == b"layer"
        assert httpx.get(f"{wanted}/blobs/{blob}").status_code == 401
    finally:
        RunFile(tmp_path).end_leftovers()


def test_commands_see_none_of_the_operators_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_API_TOKEN", "dop_v1_real")
    monkeypatch.setenv("API_URL", "https://api.real.example")
    monkeypatch.setenv("LANG", "C")
    found = Stage(tmp_path, "wopr.bot").environment()
    assert not {"DO_API_TOKEN", "API_URL"} & set(found)
    assert (found["LANG"], found["WOPR_HOME"], found["HOME"]) == ("C", str(tmp_path), str(tmp_path / "operator"))


STRIPE = "Stripe switched to live mode keys"


@pytest.mark.parametrize(
    ("checks", "left", "says"),
    [
        ({"stack.dump": "warning"}, (STRIPE,), r"stack.dump \(warning\): as seen"),
        ({"api.ready": "failed", "settings.stripe-mode": "warning"}, (STRIPE,), r"^1 checks are not ok: api.ready"),
        ({"api.ready": "ok"}, (STRIPE, "All services healthy"), "open: All services healthy$"),
    ],
)
def test_checks_that_warn_and_lines_that_are_open_end_it(
    tmp_path: Path, checks: dict[str, str], left: tuple[str, ...], says: str
) -> None:
    with pytest.raises(StepFailed, match=says):
        checked(play(tmp_path), looked(checks, left))


def test_what_no_stand_in_has_does_not(tmp_path: Path) -> None:
    ran = looked({"settings.stripe-mode": "warning", "env.features": "skipped", "api.ready": "ok"}, (STRIPE,))
    assert checked(play(tmp_path), ran).startswith("1 of 3 checks ok, none failed; 1 of 2 lines")


def test_what_runs_is_looked_at_before_the_go_live_list_asks_for_it(tmp_path: Path) -> None:
    status, _, live = (command.words[1:3] for command in check(play(tmp_path)))
    assert (status, live) == (("status", "--host"), ("check", "--go-live"))


def play(folder: Path) -> Play:
    return Play(Stage(folder, "wopr.bot"), Wish(folder), runner(folder)[0])


def looked(checks: dict[str, str], left: tuple[str, ...]) -> list[Ran]:
    """How the commands of the step ended: a status, these verdicts, and a list with one line done."""
    rows = [{"name": name, "verdict": word, "evidence": "as seen", "remedy": "mend"} for name, word in checks.items()]
    listed = [{"says": "DNS", "done": True}, *({"says": one, "done": False} for one in left)]
    documents: list[object] = [{}, {"checks": rows}, {"checklist": listed}]
    return [Ran(wopr("check"), 0, json.dumps(document)) for document in documents]


def runner(folder: Path) -> tuple[Runner, list[str]]:
    shown: list[str] = []
    return Runner(dict(os.environ), folder / "log", shown.append), shown


def python(code: str, **more: tuple[int, ...]) -> Command:
    return Command((sys.executable, "-c", code), **more)


def test_a_command_is_shown_as_it_is_typed_and_answers_as_programs_read_it(tmp_path: Path) -> None:
    command = wopr("dns", "apply", "--host", "root@203.0.113.5")
    assert str(command) == "wopr dns apply --host root@203.0.113.5"
    assert list(command.line) == [sys.executable, "-m", *command.words, "--json"]
    fed = Command(("ssh", "host", "cat > a file"), stdin=Path("/x/vps.env"))
    assert str(fed) == "ssh host 'cat > a file' < /x/vps.env"
    run, shown = runner(tmp_path)
    assert run.run(python("print('{\"a\": 1}')")).json == {"a": 1}
    assert len(shown) == 1


def test_a_command_that_fails_is_named_with_its_last_lines_and_its_own_remedy(tmp_path: Path) -> None:
    run, _ = runner(tmp_path)
    code = "import sys; print('error: it is full\\n  fix: make room', file=sys.stderr); sys.exit(3)"
    with pytest.raises(StepFailed) as failed:
        run.run(python(code))
    assert "ended with 3" in failed.value.message
    assert "error: it is full" in failed.value.message
    assert failed.value.remedy == "make room"
    assert run.run(python(code, codes=(0, 3))).code == 3
    assert "it is full" in (tmp_path / "log").read_text()
