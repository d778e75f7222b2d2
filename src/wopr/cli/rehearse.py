"""`wopr rehearse`: the way from nothing to live and back, played through in the local cloud with the very commands."""

import json
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli import output
from wopr.cli.options import shared
from wopr.cli.output import DryRunOption, ExitCodeOption, JsonOption, ProgressKind, ProgressOption

if TYPE_CHECKING:
    from wopr.cli.progress import Progress
    from wopr.cli.rehearse_env import Wish
    from wopr.cli.rehearse_stage import Stage
    from wopr.cli.rehearse_steps import Play
    from wopr.core.errors import WoprError

EXAMPLES = "Examples: wopr rehearse --dry-run | wopr rehearse --keep | wopr rehearse --down"
DOMAIN = "wopr.bot"
REPORT, LOG = "rehearsal.json", "rehearsal.log"


@dataclass(frozen=True)
class Choice:
    """What is rehearsed."""

    domain: Annotated[str, typer.Option(help="Domain of the rehearsed installation, in the local cloud only.")] = DOMAIN
    image: Annotated[
        str, typer.Option(help="Image of the platform, of this engine; without it both are built from --source.")
    ] = ""
    bot: Annotated[str, typer.Option(help="Image of the bots, of this engine; goes with --image.")] = ""
    source: Annotated[Path, typer.Option(help="Checkout to build from.")] = Path()
    base_image: Annotated[
        str, typer.Option(help="Debian 12 from which the machines' image is built; empty: the public one.")
    ] = ""
    folder: Annotated[
        Path | None,
        typer.Option("--dir", help="Folder of the rehearsal; default: WOPR_HOME/rehearsal.", show_default=False),
    ] = None

    def stage(self) -> "Stage":
        from wopr.cli.rehearse_stage import Stage
        from wopr.core.settings import load_settings

        folder = self.folder or load_settings().wopr_home / "rehearsal"
        return Stage(folder.expanduser().resolve(), self.domain, self.base_image)

    def wish(self) -> "Wish":
        from wopr.cli.rehearse_env import Wish

        if bool(self.image) != bool(self.bot):
            raise typer.BadParameter("--image and --bot go together", param_hint="--image")
        source = self.source.expanduser().resolve()
        if not self.image and not (source / "Dockerfile.bot").is_file():
            output.fail(
                f"{source} is no checkout to build images from.",
                remedy="--source CHECKOUT, or --image and --bot with images that this engine has",
                code=output.USAGE,
            )
        return Wish(source, self.image, self.bot)


@dataclass(frozen=True)
class Row:
    """A step that was played."""

    step: str
    seconds: float
    evidence: str
    commands: Sequence[str]


@dataclass
class Played:
    """What came of a rehearsal. `error` is why it did not come to its end; one that was interrupted has none."""

    rows: list[Row] = field(default_factory=list)
    ok: bool = False
    error: "WoprError | None" = None

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)


@shared
def rehearse(
    choice: Choice,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end, to look at.")] = False,
    down: Annotated[bool, typer.Option("--down", help="Only end what a rehearsal left running.")] = False,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Play the way from nothing to live and back in the local cloud, and prove each step.

    Stand-ins, images, VPS, settings, DNS, release, certificate, node, customer, checks, another release, rollback,
    logbook: by the very commands that are typed on the day, each shown as it is run. Nothing outside this machine is
    touched, and no key of yours is used. Takes some minutes; only the logbook and the report stay.
    """
    stage = choice.stage()
    stages = output.progress(progress, as_json=as_json)
    if down:
        _take_down(stage, stages, dry_run=dry_run, exit_code=exit_code, as_json=as_json)
        return
    wish = choice.wish()
    if dry_run:
        _tell_plan(stage, wish, as_json=as_json)
        return
    with stage.held():
        stage.check()
        with stages.stage("", "ending what an earlier one left", keep=False):
            stage.end()
        stage.put_aside()
        with _ends_by_signal():
            played = _play(stage, wish, stages, keep=keep)
    _tell(stage, played, kept=keep, as_json=as_json)


def _play(stage: "Stage", wish: "Wish", stages: "Progress", *, keep: bool) -> Played:
    """Every step until one fails; what was begun is taken away again, unless it shall be kept."""
    from wopr.cli.rehearse_commands import Runner
    from wopr.cli.rehearse_steps import Play
    from wopr.core.errors import WoprError
    from wopr.ops.journal import Journal

    typed: list[str] = []

    def show(command: str) -> None:
        typed.append(command)
        output.say(output.dim(f"$ {command}"))

    play = Play(stage, wish, Runner(stage.environment(), stage.folder / LOG, show))
    played = Played()
    try:
        with Journal(stage.folder).operation("rehearse", domain=stage.domain) as operation:
            for row in _rows(play, stages, typed):
                played.rows.append(row)
                operation.step(row.step, evidence=row.evidence, seconds=round(row.seconds, 1))
        played.ok = True
    except WoprError as error:
        played.error = error
    finally:
        stage.end_commands()
        (stage.folder / REPORT).write_text(json.dumps(_document(stage, played), indent=2) + "\n")
        if keep:
            _tell_how_to_look(play)
        else:
            with stages.stage("", "taking everything away", keep=False):
                stage.end()
    return played


def _rows(play: "Play", stages: "Progress", typed: list[str]) -> Iterator[Row]:
    """Each step once it was played; `typed` gets its commands."""
    from wopr.cli.rehearse_steps import STEPS

    for step in STEPS:
        typed.clear()
        begun = time.monotonic()
        with stages.stage("", f"{step.name}: {step.says}") as told:
            evidence = step.carry_out(play)
            told.done(evidence)
        yield Row(step.name, time.monotonic() - begun, evidence, tuple(typed))


def _tell_how_to_look(play: "Play") -> None:
    """How to reach what was left running, and how to end it."""
    stage = play.stage
    output.say(f"everything runs on; commands meet it with: export WOPR_HOME={stage.folder} HOME={stage.operator}")
    output.say(f"  {play.ssh()}")
    output.say(f"  wopr status --host root@{play.found.address}")
    output.say(f"end it: wopr rehearse --down --dir {stage.folder}")


def _document(stage: "Stage", played: Played) -> dict[str, Any]:  # what JSON can write
    return {
        "ok": played.ok,
        "seconds": round(played.seconds, 1),
        "error": played.error.message if played.error else "",
        "logbook": str(stage.folder / "logbook"),
        "log": str(stage.folder / LOG),
        "steps": [asdict(row) | {"seconds": round(row.seconds, 1)} for row in played.rows],
    }


def _tell(stage: "Stage", played: Played, *, kept: bool, as_json: bool) -> None:
    if as_json:
        output.json_document(_document(stage, played) | {"kept": kept})
    else:
        rows = [(row.step, f"{row.seconds:.1f}", row.evidence) for row in played.rows]
        output.table(("step", "seconds", "evidence"), rows, "No step came to its end.")
    if played.error is not None:
        output.fail(played.error.message, remedy=played.error.remedy, log=str(stage.folder / LOG))
    if not as_json:
        output.result(f"rehearsed in {played.seconds:.0f} s; the proof: {stage.folder / 'logbook'}")


def _tell_plan(stage: "Stage", wish: "Wish", *, as_json: bool) -> None:
    from wopr.cli.rehearse_commands import Runner
    from wopr.cli.rehearse_steps import STEPS, Play

    play = Play(stage, wish, Runner({}, stage.folder / LOG, output.say))
    plan = [{"step": s.name, "says": s.says, "commands": [str(c) for c in s.commands(play)]} for s in STEPS]
    if as_json:
        output.json_document({"dry_run": True, "dir": str(stage.folder), "steps": plan})
        return
    for step in plan:
        output.result(f"{step['step']}: {step['says']}")
        for command in step["commands"]:
            output.result(f"    {command}")


def _take_down(stage: "Stage", stages: "Progress", *, dry_run: bool, exit_code: bool, as_json: bool) -> None:
    there = stage.left() if stage.folder.exists() else []
    if there and not dry_run:
        with stage.held(), stages.stage("", "taking everything away", keep=False):
            stage.end()
    if as_json:
        output.json_document({"dry_run": dry_run, "ended": there})
    else:
        word = "would end" if dry_run else "ended"
        output.result(f"{word}: {', '.join(there)}" if there else "nothing to do: no rehearsal left anything")
    if not there:
        output.nothing_to_do(exit_code)


@contextmanager
def _ends_by_signal() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: what was begun is taken away."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
