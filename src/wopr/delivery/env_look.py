"""Looks at an installation's `.env` where it stands: what it says, who may read it, whether git has it."""

from dataclasses import dataclass

from wopr.delivery.env_file import EnvFile, Fault, in_order, read_env
from wopr.delivery.env_rules import faults_of
from wopr.delivery.errors import Refused
from wopr.delivery.hosts import Host
from wopr.delivery.place import Place

# The mode, then what git makes of the file: outside, ignored, open (one `git add .` away), committed once, or tracked.
# Git is told to look at folders of other owners too, or one of the operator's would look like none.
LOOK_SCRIPT = """
stat -c %a "$1" || exit 44
cd "$(dirname "$1")" || exit 1
git="git -c safe.directory=*"
[ "$($git rev-parse --is-inside-work-tree 2>/dev/null)" = true ] || { echo outside; exit 0; }
name=$(basename "$1")
$git ls-files --error-unmatch -- "$name" >/dev/null 2>&1 && { echo tracked; exit 0; }
[ -n "$($git log --all --oneline -1 -- "$name" 2>/dev/null)" ] && { echo committed; exit 0; }
$git check-ignore -q -- "$name" && echo ignored || echo open
"""
ABSENT = 44
IN_GIT = {
    "tracked": ("is tracked by git", "git rm --cached .env, commit, and change every secret in it: wopr secrets list"),
    "committed": ("was committed to git once", "Change every secret in it: wopr secrets list"),
    "open": ("lies in a git checkout that does not ignore it", "echo .env >> .gitignore"),
}


@dataclass(frozen=True)
class EnvLook:
    """A file with all its faults, those that refuse a release first. `mode` is octal; empty when there is no file."""

    file: EnvFile
    faults: tuple[Fault, ...]
    mode: str
    git: str


def look_command(path: str) -> tuple[str, ...]:
    """The command that says who may read a file, and whether git has it."""
    return ("sh", "-c", LOOK_SCRIPT, "look", path)


async def look_env(host: Host, place: Place, content: bytes | None = None) -> EnvLook:
    """Everything about the `.env` of an installation; `content` where it was read already."""
    raw = content if content is not None else await host.read(place.env)
    told = (await host.run(look_command(place.env))).text.split() if raw is not None else []
    mode, git = (told[0], told[1]) if len(told) == 2 else ("", "outside")
    file = read_env(raw or b"")
    faults = [*file.faults, *faults_of(file)]
    if git in IN_GIT:
        says, remedy = IN_GIT[git]
        faults.append(Fault(0, "", says, remedy, refused=git == "tracked"))
    return EnvLook(file, tuple(in_order(faults)), mode, git)


async def refuse_bad_env(host: Host, place: Place, content: bytes) -> None:
    """Refused with every fault that a release must not begin with; nothing when there is none."""
    looked = await look_env(host, place, content)
    bad = [fault for fault in looked.faults if fault.refused]
    if bad:
        raise Refused(f"{place.env}: {'; '.join(str(fault) for fault in bad)}.", remedy=bad[0].remedy, code="bad_env")
