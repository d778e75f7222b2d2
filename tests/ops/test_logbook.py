"""The logbook's pages follow from the journal byte for byte, are committed after each operation; any change shows."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from wopr.ops.entry import Entry, parse, sealed
from wopr.ops.head import HEAD_FILE
from wopr.ops.journal import Journal
from wopr.ops.logbook import operations, render
from wopr.ops.logbook.history import NO_GIT, keep
from wopr.ops.proof import damages

IMAGE = "ghcr.io/wopr-network/wopr-platform@sha256:"


def deployed(journal: Journal, number: int, verdict: str = "good", name: str = "deploy") -> None:
    with journal.operation(name, release=number, platform=IMAGE + f"{number:x}" * 64, trigger="operator") as operation:
        operation.step("dump verified", tables=31)
        operation.step("cutover", slot="blue")
        operation.outcome.update(verdict=verdict, reason="" if verdict == "good" else "never ready", seconds=4.2)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An installation with a history of everything that has a page of its own."""
    journal = Journal(tmp_path)
    deployed(journal, 1)
    deployed(journal, 2)
    deployed(journal, 3, "bad")
    with journal.operation("migrate.apply", database_at="0006", code_at="0007"):
        pass
    with journal.operation("nodes.register", node="n1", host="10.0.0.1"):
        pass
    journal.append("d1", "decision", "note", {"title": "One VPS", "context": "cost"})
    keep(tmp_path)
    return tmp_path


def git(home: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", f"{home}/logbook", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def page(home: Path, name: str) -> str:
    return (home / "logbook" / name).read_text(encoding="utf-8")


def test_every_page_of_the_runbooks_family_is_there(home: Path) -> None:
    names = {path.relative_to(home / "logbook").as_posix() for path in (home / "logbook").rglob("*.md")}
    assert names == {
        "RUNBOOK.md", "OPERATIONS.md", "DEPLOYMENTS.md", "INCIDENTS.md", "MIGRATIONS.md", "DECISIONS.md", "GPU.md",
        "nodes/n1.md",
    }  # fmt: skip


def test_pages_are_a_function_of_the_journal_alone(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(home / "journal.jsonl", elsewhere)
    keep(elsewhere)
    for path in (home / "logbook").rglob("*.md"):
        name = path.relative_to(home / "logbook")
        assert path.read_bytes() == (elsewhere / "logbook" / name).read_bytes()


def test_the_deployments_name_digests_and_where_a_rollback_goes(home: Path) -> None:
    text = page(home, "DEPLOYMENTS.md")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| 3 ", "| 2 "))]
    assert rows[0][3] == "`sha256:333333333333`"
    assert rows[0][5] == "`sha256:222222222222`"
    assert rows[0][-1] == "bad |"
    assert rows[1][-1] == "good |"
    assert "**Serving:** release 2" in text
    assert "**A rollback goes to:** `sha256:111111111111`" in text
    assert "bad: never ready" in text
    assert IMAGE + "1" * 64 in page(home, "RUNBOOK.md")


def test_other_pages_tell_their_part(home: Path) -> None:
    assert "0006 | 0007" in page(home, "MIGRATIONS.md")
    assert "dump verified" in page(home, "MIGRATIONS.md")
    assert "## 1. One VPS" in page(home, "DECISIONS.md")
    assert "[n1](nodes/n1.md)" in page(home, "GPU.md")
    assert "10.0.0.1" in page(home, "nodes/n1.md")
    assert "LIVE — release 2" in page(home, "RUNBOOK.md")


@pytest.mark.parametrize("name", ["../../../etc/passwd", "..", "", "a/b", "UPPER", "n" * 300, "x\x00y", ".hidden"])
def test_no_name_of_a_node_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    journal = Journal(tmp_path / "home")
    with journal.operation("nodes.register", node=name, host="h"):
        pass
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"home"}
    pages = [path.relative_to(tmp_path / "home" / "logbook").parts for path in tmp_path.rglob("nodes/*.md")]
    assert len(pages) == (1 if name else 0)
    assert damages(journal) == []


def test_a_hostile_text_stays_within_its_cell(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.operation("deploy", release="1 | x |\n# Heading\u2028<script>alert(1)</script>"):
        pass
    for path in (tmp_path / "logbook").rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert "<script>" not in text
        assert "\n# Heading" not in text
    assert damages(journal) == []


def test_each_operation_is_committed_with_an_anchor_and_nobodys_name(home: Path) -> None:
    assert git(home, "log", "-1", "--format=%an %s") == "wopr decision noted"
    assert git(home, "log", "-1", "--skip=1", "--format=%s") == "nodes.register done"
    count, head = git(home, "log", "-1", "--format=%b").splitlines()
    entries = Journal(home).read()
    assert count == f"Journal-Entries: {len(entries)}"
    assert head == f"Journal-Head: {entries[-1].hash}"
    assert git(home, "status", "--porcelain") == ""


def test_what_somebody_puts_beside_the_pages_is_not_committed(home: Path) -> None:
    (home / "logbook" / ".env").write_text("STRIPE_SECRET_KEY=whatever\n")
    with Journal(home).operation("deploy"):
        pass
    assert git(home, "log", "-1", "--format=%s") == "deploy done"
    assert git(home, "status", "--porcelain") == "?? .env"


def test_failed_and_killed_operations_are_in_the_pages_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(RuntimeError), journal.operation("deploy", release=1):
        raise RuntimeError("no disk")
    journal.append("killed", "deploy", "begin", {"release": 2})
    with journal.operation("smoke"):
        pass
    text = page(tmp_path, "OPERATIONS.md")
    assert "| deploy | failed |" in text
    assert "| deploy | unfinished |" in text
    assert git(tmp_path, "log", "--format=%s").splitlines() == ["deploy unfinished, smoke done", "deploy failed"]


def changed_field(lines: list[str]) -> list[str]:
    entry = json.loads(lines[4])
    return [*lines[:4], json.dumps({**entry, "data": {"release": 9}}), *lines[5:]]


def rehashed(lines: list[str]) -> list[str]:
    """A forger who knows the rules: the chain is right again from the changed line on."""
    entries = [parse(line) for line in lines]
    forged: list[str] = []
    previous = entries[0].previous
    for number, entry in enumerate(entries):
        data = {"release": 9} if number == 4 else entry.data
        new = sealed(type(entry)(**{**vars(entry), "data": data, "previous": previous}))
        forged.append(new.line())
        previous = new.hash
    return forged


def appended(lines: list[str]) -> list[str]:
    last = parse(lines[-1])
    return [*lines, sealed(type(last)(**{**vars(last), "operation": "forged", "previous": last.hash})).line()]


TAMPERED: dict[str, Callable[[list[str]], list[str]]] = {
    "a changed field": changed_field,
    "a line removed": lambda lines: lines[:5] + lines[6:],
    "the last line removed": lambda lines: lines[:-1],
    "the last lines removed": lambda lines: lines[:-4],
    "everything removed": lambda lines: [],
    "two lines exchanged": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "a line doubled": lambda lines: [*lines[:3], lines[3], *lines[3:]],
    "a forged line at the end": appended,
    "a chain computed anew": rehashed,
    "a space": lambda lines: [lines[0].replace('{"', '{ "', 1), *lines[1:]],
    "no JSON": lambda lines: [*lines[:3], "nonsense", *lines[4:]],
}


@pytest.mark.parametrize("how", TAMPERED)
@pytest.mark.parametrize("anchors", ["head and commits", "head", "commits"])
def test_any_change_of_the_journal_is_found(home: Path, how: str, anchors: str) -> None:
    journal = Journal(home)
    assert damages(journal) == []
    lines = journal.path.read_text(encoding="utf-8").split("\n")[:-1]
    journal.path.write_text("".join(line + "\n" for line in TAMPERED[how](lines)), encoding="utf-8")
    if anchors == "head":
        shutil.rmtree(home / "logbook")
    if anchors == "commits":
        (home / HEAD_FILE).unlink()
        if how == "a forged line at the end":
            return  # without the head nothing tells it from an entry that awaits its commit
    found = damages(journal)
    assert any("head is missing" not in damage.reason for damage in found)


def test_what_was_cut_off_stays_known_after_further_operations(home: Path) -> None:
    journal = Journal(home)
    lines = journal.path.read_text(encoding="utf-8").split("\n")[:-1]
    journal.path.write_text("".join(line + "\n" for line in lines[:-3]), encoding="utf-8")
    deployed(journal, 4)
    shutil.rmtree(home / "logbook")
    (home / "logbook.head").unlink()
    (damage,) = damages(journal)
    ended = f"the journal ended with {len(lines) - 3} entries where {len(lines)} had been written"
    assert damage.reason == f"tells of damage before it: {ended}"


def test_changed_missing_and_foreign_pages_are_found(home: Path) -> None:
    (home / "logbook" / "RUNBOOK.md").write_text("all is well\n", encoding="utf-8")
    (home / "logbook" / "GPU.md").unlink()
    (home / "logbook" / "nodes" / "evil.md").write_text("x", encoding="utf-8")
    (home / "logbook" / "nodes" / "dump.sql").write_text("x", encoding="utf-8")
    (home / "logbook" / "elsewhere").symlink_to("/")
    assert {damage.reason for damage in damages(Journal(home))} == {
        "page RUNBOOK.md differs from the journal",
        "page GPU.md differs from the journal",
        "page nodes/evil.md was not rendered",
        "nodes/dump.sql is no page: nobody rendered it, and no commit has it",
        "elsewhere is no page: nobody rendered it, and no commit has it",
    }
    keep(home)
    assert len(damages(Journal(home))) == 2, "what is somebody's own is not thrown away"
    (home / "logbook" / "nodes" / "dump.sql").unlink()
    (home / "logbook" / "elsewhere").unlink()
    assert damages(Journal(home)) == []


REWRITTEN: dict[str, Sequence[Sequence[str]]] = {
    "the last commit removed": [("reset", "-q", "--soft", "HEAD~1")],
    "the last commit and its pages removed": [("reset", "-q", "--hard", "HEAD~1")],
    "the last commit told otherwise": [("commit", "-q", "--amend", "-m", "all is well")],
    "everything made one commit": [
        ("checkout", "-q", "--orphan", "x"),
        ("commit", "-q", "-m", "x"),
        ("branch", "-D", "main"),
    ],
    "an older page rewritten": [
        ("filter-branch", "--tree-filter", "echo x >> RUNBOOK.md", "HEAD"),
        ("checkout", "HEAD~0"),
    ],
    "another branch": [("checkout", "-q", "-b", "x", "HEAD~2"), ("branch", "-D", "main")],
}


@pytest.mark.parametrize("how", REWRITTEN)
def test_a_history_of_commits_that_was_changed_is_found_and_stays_known(
    home: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("FILTER_BRANCH_SQUELCH_WARNING", "1")
    last = git(home, "rev-parse", "--short=12", "HEAD")
    for command in REWRITTEN[how]:
        git(home, *command)
    for _ in range(2):
        (damage,) = [damage for damage in damages(Journal(home)) if "history" in damage.reason]
        assert f"commit {last} is no longer in it" in damage.reason
        deployed(Journal(home), 4)


def test_a_logbook_whose_commits_are_gone_is_damaged_until_somebody_says_why(home: Path) -> None:
    shutil.rmtree(home / "logbook")
    keep(home)
    (damage,) = damages(Journal(home))
    assert damage.reason.endswith("if you know why, remove logbook.head)")
    (home / "logbook.head").unlink()
    deployed(Journal(home), 4)
    assert damages(Journal(home)) == []
    git(home, "reset", "-q", "--soft", "HEAD~1")
    assert damages(Journal(home)) != []


def test_pages_may_be_older_than_the_journal_but_never_otherwise(home: Path) -> None:
    Journal(home).append("later", "note", "note", {"text": "not rendered yet"})
    assert damages(Journal(home)) == []


def test_entries_with_every_separator_of_unicode_are_one_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.operation("note", text="a\u2028b\x85c\x0bd\x1ce\ufeff\ud800"):
        pass
    assert len(journal.read()) == 2
    assert damages(journal) == []


def test_a_writer_killed_between_head_and_line_leaves_no_damage(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append("a", "test", "note", {})
    before = journal.path.read_bytes()
    head = (tmp_path / HEAD_FILE).read_bytes()
    journal.append("b", "test", "note", {})
    after = journal.path.read_bytes()
    announced = {**json.loads(head), "next_hash": journal.read()[-1].hash}
    for content in (before, after, after[:-7]):
        journal.path.write_bytes(content)
        (tmp_path / HEAD_FILE).write_text(json.dumps(announced), encoding="utf-8")
        assert journal.verify() == []
        journal.append("c", "test", "note", {})
        assert journal.verify() == []
        assert not any("damage" in entry.data for entry in journal.read())


WRITER = """
import sys
from pathlib import Path
from wopr.ops.journal import Journal
print("ready", flush=True)
for number in range(10_000):
    with Journal(Path(sys.argv[1])).operation("deploy", release=number) as operation:
        operation.step("cutover")
"""


def test_writers_killed_at_any_moment_leave_a_whole_journal_and_a_usable_repository(tmp_path: Path) -> None:
    for kill in range(6):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.03 + 0.037 * kill)  # any moment will do; which one it hits is the test's variety
            os.killpg(writer.pid, signal.SIGKILL)
    for lock in (tmp_path / "logbook" / ".git").rglob("*.lock"):
        os.utime(lock, (0, 0))  # as if the next operation came later
    journal = Journal(tmp_path)
    with journal.operation("smoke"):
        pass
    while "another process" in keep(tmp_path).reason:
        time.sleep(0.01)  # git of the last one killed is still on its way out
    assert damages(journal) == []
    assert git(tmp_path, "status", "--porcelain") == ""
    assert git(tmp_path, "log", "-1", "--format=%s").endswith("smoke done")


@pytest.mark.parametrize("left", [("HEAD", "refs"), ("HEAD", "config", "refs"), ()])
def test_a_repository_whose_making_was_killed_is_made_anew(tmp_path: Path, left: tuple[str, ...]) -> None:
    deployed(Journal(tmp_path), 1)
    repository = tmp_path / "logbook" / ".git"
    for path in repository.iterdir():
        if path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (repository / "refs").rglob("main"):
        path.unlink()
    (tmp_path / "logbook.head").unlink()  # it comes after the first commit
    deployed(Journal(tmp_path), 2)
    assert git(tmp_path, "log", "--format=%s") == "deploy done"
    assert damages(Journal(tmp_path)) == []


def test_operations_of_several_processes_are_all_committed(tmp_path: Path) -> None:
    script = WRITER.replace("10_000", "8")
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.DEVNULL) for _ in range(3)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    journal = Journal(tmp_path)
    assert len(operations(journal.read())) == 24
    assert damages(journal) == []
    assert f"Journal-Entries: {len(journal.read())}" in git(tmp_path, "log", "-1", "--format=%b")


def test_a_configuration_of_git_around_it_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    monkeypatch.setenv("GIT_DIR", str(project / ".git"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    config = tmp_path / "gitconfig"
    config.write_text("[commit]\n\tgpgsign = true\n[user]\n\tsigningkey = none\n", encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    with Journal(project / ".wopr").operation("smoke"):
        pass
    monkeypatch.undo()
    assert git(project / ".wopr", "log", "--format=%an") == "wopr"
    assert not list((project / ".git" / "refs").rglob("heads/*"))


def test_without_git_the_pages_are_written_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    journal = Journal(tmp_path / "home")
    for number in range(3):
        deployed(journal, number)
    assert "| deploy | done |" in page(tmp_path / "home", "OPERATIONS.md")
    assert [entry.data["what"] for entry in journal.read() if entry.data.get("lacking") == "git"] == [NO_GIT]
    monkeypatch.undo()
    deployed(journal, 4)
    assert "deploy done" in git(tmp_path / "home", "log", "-1", "--format=%s")


def test_a_logbook_that_cannot_be_written_never_fails_the_operation(tmp_path: Path) -> None:
    (tmp_path / "logbook").write_text("a file where the folder should be", encoding="utf-8")
    journal = Journal(tmp_path)
    deployed(journal, 1)
    assert journal.verify() == []
    assert [entry.name for entry in journal.read()][-1] == "logbook"
    (tmp_path / "logbook").unlink()
    deployed(journal, 2)
    assert damages(journal) == []


def test_a_long_journal_is_rendered_by_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wopr.ops.journal.RENDER_AT_ONCE_BYTES_MAX", 1)
    deployed(Journal(tmp_path), 1)
    deadline = time.monotonic() + 30
    while not (tmp_path / "logbook" / ".git" / "refs" / "heads" / "main").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert git(tmp_path, "log", "-1", "--format=%s") == "deploy done"


def test_an_entry_of_any_shape_can_be_rendered() -> None:
    odd = [None, 1, "x", [], [1, {"name": 2}], {"a": {"b": [1]}}, True, 1e300]
    names = ("deploy", "rollback", "migrate", "incident", "decision", "nodes.x", "observed", "smoke", "provision")
    keys = ("release", "platform", "previous", "seconds", "verdict", "node", "rows", "what", "title", "severity",
            "began_at", "follow_up", "step", "kind", "key", "monthly_cost_cents", "context")  # fmt: skip
    entries = []

    def add(operation: str, name: str, phase: str, data: dict[str, object]) -> None:
        entries.append(Entry("2026-11-23T12:00:00.000+00:00", operation, name, phase, "ada", data, "", "0" * 64))

    for number, value in enumerate(odd):
        for name in names:
            for phase in ("begin", "step", "end"):
                add(f"{name}{number}", name, phase, dict.fromkeys(keys, value))
        for what in ("services", "stack", "checks", "secrets", "nodes", "vps", "addresses"):
            row = dict.fromkeys((*keys, "name", "state", "status", "services", "verdict", "image"), value)
            add(f"o{number}{what}", "observed", "note", {"what": what, "rows": [row, value]})
    add("at", "deploy", "begin", {"release": 1})
    assert "RUNBOOK.md" in render([*entries, replace(entries[0], at="no moment")])


def test_a_killed_release_is_told_from_its_steps_and_judged_by_the_next_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    deployed(journal, 1)
    platform = IMAGE + "2" * 64
    for phase, data in (
        ("begin", {"trigger": "operator"}),
        ("step", {"step": "pulled", "platform": platform}),
        ("step", {"step": "committed", "release": 2}),
    ):
        journal.append("killed", "deploy", phase, data)
    journal.keep()
    assert "| 2 |" in page(tmp_path, "DEPLOYMENTS.md")
    assert "| unfinished |" in page(tmp_path, "DEPLOYMENTS.md")
    with journal.operation("deploy") as operation:
        operation.step("recovered: settle", release=2, verdict="good")
        operation.outcome.update(verdict="unchanged", release=2, previous=1)
    text = page(tmp_path, "DEPLOYMENTS.md")
    assert "**Serving:** release 2, `sha256:222222222222`" in text
    assert "**A rollback goes to:** `sha256:111111111111`" in text


def test_secrets_of_another_host_are_hidden_once_they_are_known(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(RuntimeError):
        release_elsewhere(journal)
    written = journal.path.read_text(encoding="utf-8")
    assert "of-another-host" not in written
    assert "https://example.com" in written


def release_elsewhere(journal: Journal) -> None:
    with journal.operation("deploy") as operation:
        operation.hide({"POSTGRES_PASSWORD": "of-another-host", "UI_URL": "https://example.com"})
        operation.step("seen", what="of-another-host at https://example.com")
        raise RuntimeError("wrong password of-another-host")
