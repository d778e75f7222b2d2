"""Keeps the rendered pages in a folder that is a git repository of its own, and compares them with the journal.

Each commit names how many entries the journal had and the hash of the last: an anchor beside the journal, and wherever
the repository is pushed to. In turn `logbook.head` keeps the last commit, whose id stands for all before it, apart from
the repository: history that is rewritten, or cut off, no longer leads to it. Git is run without anybody's
configuration. Without git the pages are written all the same.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wopr.core.environment import environment
from wopr.ops.entry import JOURNAL_FILE, Damage, Entry, lines_of, parse, read_entries
from wopr.ops.logbook.operations import ORIGIN, operations
from wopr.ops.logbook.pages import render
from wopr.ops.logbook.text import plain

LOGBOOK_FOLDER = "logbook"
LOCK_FILE = "logbook.lock"
HEAD_FILE = "logbook.head"
GIT_SECONDS_MAX = 30.0
# A lock of git's that is older was left by a process that is gone: ours is held, and nobody else writes here.
STALE_LOCK_SECONDS = 5.0
OLD_RENDERING_MAX = 3
SUBJECT_OPERATIONS_MAX = 3
AUTHOR = ("-c", "user.name=wopr", "-c", "user.email=wopr@localhost")
# Durable, or after a power cut `logbook.head` might name what is not there.
DURABLE = ("-c", "core.fsync=committed")
SETTINGS = ("-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null", "-c", "safe.directory=*", *DURABLE)
ANCHOR = re.compile(r"^Journal-Entries: (\d+)\nJournal-Head: ([0-9a-f]{64})$", re.MULTILINE)
COMMITTED = re.compile(r"\[.*?\b([0-9a-f]{7,40})\]")
NO_GIT = "git is not installed, so the logbook's pages are written but not committed"


@dataclass(frozen=True)
class Kept:
    """What keeping the logbook did. `commit` is its short id; when it is empty, `reason` may say why."""

    folder: Path
    written: tuple[str, ...] = ()
    commit: str = ""
    reason: str = ""


def keep(home: Path, folder: Path | None = None, *, commit: bool = True) -> Kept:
    """Write the pages of the journal under `home` that changed, and commit them. Safe beside others, safe to be killed.

    When another process is at it, nothing is done: it looks at the journal once more before it leaves.
    Raises OSError when the folder can't be written.
    """
    place = folder or home / LOGBOOK_FOLDER
    kept = Kept(place, reason="another process is keeping the logbook")
    while True:
        with _turn(home) as mine:
            if not mine:
                return kept
            size = _size(home)
            kept = _kept(place, read_entries(home), commit=commit)
            if kept.commit and folder is None:
                _remember(home)
        # Who came while the lock was held has left his entry to us.
        if _size(home) == size:
            return kept


def outdated(home: Path, folder: Path | None = None) -> tuple[Sequence[str], tuple[str, ...]]:
    """Every page that the journal under `home` makes, and those that are not yet so in the folder."""
    place = folder or home / LOGBOOK_FOLDER
    pages = render(read_entries(home))
    return sorted(pages), tuple(name for name in sorted(pages) if _differs(place / name, pages[name]))


def unrendered(home: Path, folder: Path | None = None) -> Sequence[Entry]:
    """The entries that came after the pages were last rendered; all where there are none."""
    entries = read_entries(home)
    found = ORIGIN.search(_content((folder or home / LOGBOOK_FOLDER) / "OPERATIONS.md"))
    return entries[int(found.group(1)) if found else 0 :]


def page_files(home: Path, folder: Path | None = None) -> Sequence[Path]:
    """The pages that are there."""
    place = folder or home / LOGBOOK_FOLDER
    return [place / name for name in sorted(_there(place))]


def page_damages(home: Path, folder: Path | None = None) -> Sequence[Damage]:
    """Every page that is not what the journal says, as far as the journal had come when they were rendered."""
    place = folder or home / LOGBOOK_FOLDER
    if not (place / "OPERATIONS.md").exists():
        there = sorted(path.name for path in place.glob("*.md")) if place.exists() else []
        return [Damage(0, f"page {name} is there without OPERATIONS.md") for name in there]
    entries = read_entries(home)
    found = ORIGIN.search(_content(place / "OPERATIONS.md"))
    if found is None:
        return [Damage(0, "page OPERATIONS.md does not say from what it was rendered")]
    count = int(found.group(1))
    if count > len(entries) or (count and entries[count - 1].hash != found.group(2)):
        return [Damage(0, f"the pages were rendered from {count} entries that the journal no longer has")]
    pages = render(entries[:count])
    damages = [
        Damage(0, f"page {name} differs from the journal") for name in pages if _differs(place / name, pages[name])
    ]
    return damages + [Damage(0, f"page {name} was not rendered") for name in sorted(_there(place) - set(pages))]


def foreign_files(home: Path) -> Sequence[Damage]:
    """Whatever lies beside the pages in the logbook's own folder: nobody rendered it, and no commit has it."""
    place = home / LOGBOOK_FOLDER
    found = [path.relative_to(place) for path in place.rglob("*") if path.is_symlink() or not path.is_dir()]
    foreign = [
        path
        for path in found
        if path.parts[0] != ".git" and path.suffix != ".md" and not (path.name[0] == "." and path.suffix == ".new")
    ]
    return [Damage(0, f"{path} is no page: nobody rendered it, and no commit has it") for path in sorted(foreign)]


def anchor_damages(home: Path, folder: Path | None = None) -> Sequence[Damage]:
    """Every commit whose anchor the journal contradicts. Says nothing where there is no repository or no git."""
    place = folder or home / LOGBOOK_FOLDER
    if not (place / ".git").exists() or not shutil.which("git"):
        return []
    try:
        told = _git(place, "log", "--all", "--format=%B%x00")
    except subprocess.SubprocessError:
        return [Damage(0, "the logbook's git repository can't be read")]
    lines = lines_of(home)
    damages = []
    for count, head in {(int(c), h) for c, h in ANCHOR.findall(told)}:
        if count > len(lines):
            damages.append(Damage(0, f"a commit of the logbook knows {count} entries, the journal has {len(lines)}"))
        elif count and _hash(lines[count - 1]) != head:
            damages.append(Damage(count, "is not what a commit of the logbook knows"))
    return sorted(damages, key=lambda damage: (damage.line, damage.reason))


def history_damages(home: Path) -> Sequence[Damage]:
    """Whether the repository still leads to its last commit. Says nothing where none was made, and without git."""
    made = _remembered(home)
    if not made or not shutil.which("git") or _leads_to(home / LOGBOOK_FOLDER, made):
        return []
    lost = f"the logbook's history was changed or cut off: commit {made[:12]} is no longer in it"
    return [Damage(0, f"{lost} (bring {LOGBOOK_FOLDER}/ back from a clone; if you know why, remove {HEAD_FILE})")]


def _remember(home: Path) -> None:
    """Keep the last commit apart, unless the one that is kept is missing: that must stay known."""
    place, made = home / LOGBOOK_FOLDER, _remembered(home)
    with contextlib.suppress(subprocess.SubprocessError):
        if not made or _leads_to(place, made):
            last = _git(place, "rev-parse", "--verify", "HEAD").strip()
            temporary = home / f".{HEAD_FILE}.new"
            temporary.write_text(last + "\n", encoding="utf-8")
            temporary.replace(home / HEAD_FILE)


def _remembered(home: Path) -> str:
    path = home / HEAD_FILE
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""


def _leads_to(place: Path, commit: str) -> bool:
    try:
        _git(place, "merge-base", "--is-ancestor", commit, "HEAD")
    except subprocess.SubprocessError:
        return False
    return True


def _kept(place: Path, entries: Sequence[Entry], *, commit: bool) -> Kept:
    place.mkdir(parents=True, exist_ok=True)
    found = ORIGIN.search(_content(place / "OPERATIONS.md"))
    news = entries[int(found.group(1)) if found else 0 :]
    written = _write(place, render(entries))
    if not commit:
        return Kept(place, written, reason="not asked for")
    if not shutil.which("git"):
        return Kept(place, written, reason=NO_GIT)
    try:
        return Kept(place, written, _commit(place, entries, news))
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr or error).strip().splitlines()
        return Kept(place, written, reason=f"git: {lines[-1] if lines else 'failed'}")
    except subprocess.TimeoutExpired:
        return Kept(place, written, reason=f"git gave no answer within {GIT_SECONDS_MAX:.0f} s")


def _write(place: Path, pages: Mapping[str, str]) -> tuple[str, ...]:
    changed = tuple(name for name in sorted(pages) if _differs(place / name, pages[name]))
    for name in changed:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(pages[name], encoding="utf-8")
        temporary.replace(path)
    for name in _there(place) - set(pages):
        (place / name).unlink()
    for left in (*place.glob(".*.new"), *place.glob("*/.*.new")):
        left.unlink()  # by a process that was killed
    return changed


def _commit(place: Path, entries: Sequence[Entry], news: Sequence[Entry]) -> str:
    """Commit what is there; empty when nothing changed."""
    for lock in (place / ".git").rglob("*.lock"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - lock.stat().st_mtime > STALE_LOCK_SECONDS:
                lock.unlink()
    if not (place / ".git" / "objects" / "info").exists():  # what git makes last, so one that was killed is made anew
        _git(place, "-c", "init.defaultBranch=main", "init", "-q", "--template=")
    _git(place, "add", "-A", "--", "*.md")  # what somebody put beside the pages may be a secret
    try:
        at = entries[-1].at if entries else ""
        told = _git(place, "commit", "--no-verify", "-m", _message(entries, news), date=at)
    except subprocess.CalledProcessError as error:
        if error.returncode == 1 and not error.stderr:
            return ""  # nothing to commit
        raise
    found = COMMITTED.match(told)
    return found.group(1) if found else "unknown"


def _message(entries: Sequence[Entry], news: Sequence[Entry]) -> str:
    told = [f"{plain(line.name)} {line.outcome}" for line in operations(news)]
    more = f" and {len(told) - SUBJECT_OPERATIONS_MAX} more" if len(told) > SUBJECT_OPERATIONS_MAX else ""
    subject = ", ".join(told[:SUBJECT_OPERATIONS_MAX]) + more or "pages rendered anew"
    anchor = f"\n\nJournal-Entries: {len(entries)}\nJournal-Head: {entries[-1].hash}" if entries else ""
    return subject + anchor


def _git(place: Path, *arguments: str, date: str = "") -> str:
    """Run git as nobody in particular: neither the user's configuration nor variables of a surrounding git count."""
    variables = {"PATH": environment().get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(place)}
    variables |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
    variables |= {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date} if date else {}
    # Named, so that a repository around the folder is never meant by mistake.
    where = () if "init" in arguments else (f"--git-dir={place / '.git'}", f"--work-tree={place}")
    done = subprocess.run(
        ["git", "-C", str(place), *where, *AUTHOR, *SETTINGS, *arguments],
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=GIT_SECONDS_MAX,
        check=True,
    )
    return done.stdout


@contextlib.contextmanager
def _turn(home: Path) -> Iterator[bool]:
    """Whether it is ours to keep the logbook; the lock goes with the process that holds it."""
    descriptor = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _there(place: Path) -> set[str]:
    return {path.relative_to(place).as_posix() for path in (*place.glob("*.md"), *place.glob("nodes/*.md"))}


def _differs(path: Path, text: str) -> bool:
    return not path.is_file() or path.read_bytes() != text.encode()


def _content(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""


def _size(home: Path) -> int:
    path = home / JOURNAL_FILE
    return path.stat().st_size if path.exists() else 0


def _hash(line: str) -> str:
    try:
        return parse(line).hash
    except ValueError:
        return ""
