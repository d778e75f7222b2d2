"""What `wopr up` says once everything runs, and what a second one says: where to go, how the administrator comes in.

Each kind of `--progress` gets it in its own form; only quiet leaves the link itself out, since nobody reads it there.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from wopr.cli import output
from wopr.cli.output import Progress, ProgressKind, bold, dim, say


@dataclass(frozen=True)
class Started:
    """A platform that runs now; a port is None where the real company is used instead of a stand-in."""

    home: Path
    ui_url: str
    admin_link: str
    seconds: float
    prefix: str = ""  # of commands in another shell, see `prefix_of`
    mails_port: int | None = None
    payments_port: int | None = None


def prefix_of(home: Path, default: Path) -> str:
    """What a command in another shell needs in front to find this folder; nothing where it is the default there."""
    return "" if home == default else f"WOPR_HOME={shlex.quote(str(home))} "


def greet(progress: Progress, started: Started, *, as_json: bool) -> None:
    """Everything is ready."""
    facts = {"seconds": round(started.seconds, 2), "ui_url": started.ui_url, "admin_link": started.admin_link}
    if as_json:
        output.json_line({"event": "up", **facts})
    progress.tell("up", **facts)
    if progress.kind is ProgressKind.QUIET and not as_json:
        output.result(f"{started.ui_url}  administrator: {started.prefix}wopr admin link")
    _greet_people(started)


def already(progress: Progress, home: Path, pid: int, ui_url: str, *, as_json: bool) -> None:
    """It runs on these data already."""
    facts = {"pid": pid, "ui_url": ui_url}
    if as_json:
        output.json_line({"event": "running", **facts})
    progress.tell("running", **facts)
    if progress.kind is ProgressKind.QUIET and not as_json:
        output.result(ui_url)
    say(f"It runs already on {home}: {bold(ui_url)} (pid {pid}).")
    say("Nothing to do. Stop it with Ctrl-C in its terminal, or look at it with `wopr status`.")


def _greet_people(started: Started) -> None:
    say(f"\n{bold('Ready')} in {started.seconds:.1f} s.\n")
    say(f"  Open           {bold(started.ui_url)}")
    say(f"  Administrator  {started.admin_link}  {dim('(works once, within an hour)')}")
    if started.mails_port is not None:
        say(f"  Mails          http://localhost:{started.mails_port}")
    if started.payments_port is not None:
        card = dim("(card 4242 4242 4242 4242, any date and code)")
        say(f"  Payments       http://localhost:{started.payments_port}  {card}")
    say("\n  Try first      sign up, follow the link in the mail, pay with the card above, create a bot, say hello")
    prefix = started.prefix
    say(f"  Another shell  {prefix}wopr status | {prefix}wopr smoke          logs in {started.home / 'logs'}")
    say(f"\n  {dim('Ctrl-C stops everything.')}")
