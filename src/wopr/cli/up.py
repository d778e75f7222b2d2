"""`wopr up`: the whole business on this machine, one line for each part as it becomes ready."""

import asyncio
import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli import output
from wopr.cli.output import bold, dim, fail, good, say, warn
from wopr.cli.ports import PORT_MAX
from wopr.cli.processes import Ports, Process, environment, table_of_processes
from wopr.cli.welcome import Started, already, greet, prefix_of
from wopr.core.stop import Stop

if TYPE_CHECKING:
    from wopr.cli.progress import Progress

EXAMPLES = "Examples: wopr up | wopr up --home ~/wopr --ui-port 8000 | wopr up --bots docker | wopr up --reset"


class BotsKind(StrEnum):
    """How bots run on this machine."""

    PROCESS = "process"
    DOCKER = "docker"


# Ctrl-C is meant: nobody waits for long answers to end.
DRAIN_SECONDS = 1

PORT_OPTIONS = {"api": "--api-port", "ui": "--ui-port"} | dict.fromkeys(
    ("stand-ins", "stripe", "resend"), "--stand-in-port"
)

ApiPort = Annotated[int, typer.Option(min=1, max=PORT_MAX, help="Port of the API.")]
UiPort = Annotated[int, typer.Option(min=1, max=PORT_MAX, help="Port of the pages.")]

EnginePort = Annotated[int, typer.Option(min=1, max=PORT_MAX - 3, help="First of the four ports of the engines.")]
StandInPort = Annotated[int, typer.Option(min=1, max=PORT_MAX - 1, help="First of the ports of the stand-ins.")]


def up(
    home: Annotated[Path | None, typer.Option(help="Folder of all data; default: WOPR_HOME or ./.wopr.")] = None,
    api_port: ApiPort = 3100,
    ui_port: UiPort = 3000,
    engine_port: EnginePort = 8080,
    stand_in_port: StandInPort = 4101,
    bots: Annotated[BotsKind | None, typer.Option(help="How bots run; default: BOT_RUNTIME or process.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Wipe all data of the folder first; asks.")] = False,
    yes: output.YesOption = False,
    dry_run: output.DryRunOption = False,
    progress: output.ProgressOption = output.ProgressKind.AUTO,
    exit_code: output.ExitCodeOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON line for each event to stdout.")] = False,
) -> None:
    """Run everything on this machine: database, engines, stand-ins, API, UI and bots. Ctrl-C stops it all."""
    from wopr.cli.supervisor import RunFile

    folder = (home or _default_home()).expanduser().resolve()
    ports = Ports(
        api=api_port,
        ui=ui_port,
        **{name: engine_port + i for i, name in enumerate(("llama", "chatterbox", "whisper", "qwen"))},
        stripe=stand_in_port,
        resend=stand_in_port + 1,
    )
    stages = output.progress(progress, as_json=as_json)
    if bots is not None:
        os.environ["BOT_RUNTIME"] = bots.value
    plan = _plan(folder, ports, stages, as_json)
    record = RunFile(folder)
    if (state := record.running()) is not None:
        if reset:
            _refuse_reset(state, folder)
        already(stages, folder, int(state["supervisor"]["pid"]), state["ui_url"], as_json=as_json)
        output.nothing_to_do(exit_code)
        return
    if dry_run:
        _describe(plan, wiped=reset and _is_there(folder))
        return
    _end_leftovers(record, folder)
    if reset and _wipe(folder, yes=yes):
        _note(folder, "up.reset")
        plan = _plan(folder, ports, stages, as_json)
    _require_free_ports(plan.processes)
    asyncio.run(_run(plan, record))


@dataclass(frozen=True)
class Plan:
    """What this run starts, and how it speaks."""

    home: Path
    ports: Ports
    stripe: bool
    resend: bool
    progress: "Progress"
    as_json: bool
    prefix: str  # of commands in another shell; found out before this process's own environment is changed

    @property
    def processes(self) -> list[Process]:
        return list(table_of_processes(self.ports, stripe=self.stripe, resend=self.resend))

    def environment(self) -> dict[str, str]:
        return dict(environment(self.home, self.ports, stripe=self.stripe, resend=self.resend))

    def report(self, event: str, process: Process, seconds: float, detail: str) -> None:
        """One line, calm, for what happened to a child."""
        well = event in ("ready", "back")
        if event == "died":
            trouble = f"ended ({detail}); starts again in {seconds:.1f} s"
        else:
            trouble = f"not ready after {seconds:.0f} s; log: {detail}"
        if self.as_json:
            facts = {"seconds": round(seconds, 2), "detail": detail, "address": process.address}
            output.json_line({"event": event, "process": process.name, **facts})
        elif self.progress.kind is not output.ProgressKind.TTY:
            error = "" if well else trouble
            self.progress.ended("", process.name, seconds if well else 0.0, process.address if well else "", error)
        elif well:
            line(process.name, process.address, process.purpose, seconds, note="again" if event == "back" else "")
        else:
            say(f"  {warn('!' if event == 'died' else '…')} {process.name:<11} {trouble}")


def line(name: str, address: str, purpose: str, seconds: float, note: str = "") -> None:
    """One part that became ready."""
    say(f"  {good('✓')} {name:<11} {address:<24} {dim(f'{purpose:<20}')} {seconds:5.1f} s {dim(note)}".rstrip())


async def _run(plan: Plan, record: Any) -> None:  # Any: the class is imported where psutil is wanted
    stop = Stop()
    await _run_until(stop, plan, record)
    stop.pass_on()


async def _run_until(stop: Stop, plan: Plan, record: Any) -> None:  # Any: as above
    from wopr.cli.own_machine import Local
    from wopr.cli.supervisor import Supervisor

    started = time.monotonic()
    say(f"{bold('WOPR')} on this machine, data in {plan.home}\n")
    # This process reads its settings as the children do.
    added = plan.environment()
    drain = {"DRAIN_SECONDS": str(DRAIN_SECONDS), "DRAIN_LEAD_SECONDS": "0"}  # no proxy here has to look elsewhere
    os.environ.update(added, LOG_FORMAT="json", PYTHONUNBUFFERED="1", **drain)
    local = Local(plan.home, plan.ports, dict(os.environ))
    local.prepare()
    theirs = {name: os.environ[name] for name in ("DATABASE_URL",) if name in os.environ}
    record.begin(f"http://localhost:{plan.ports.ui}", {**added, **theirs})
    supervisor = Supervisor(plan.home, local.environment, plan.processes, plan.report, record)
    launched = asyncio.Event()
    starting = plan.progress.stage("", "everything", keep=False)
    try:
        await supervisor.start({"postgres": launched})
        seconds = await _or_stop(local.start_database(record, launched), stop)
        if seconds is _STOPPED:
            return
        plan.report("ready", local.database(), seconds, "")
        keeper = asyncio.create_task(local.keep_database(record, plan.report))
        try:
            if await _or_stop(supervisor.all_ready(), stop) is not _STOPPED:
                starting.done()
                await _or_stop(_welcome(plan, local, time.monotonic() - started), stop)
                await stop.wait()
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
    finally:
        begun = time.monotonic()
        starting.forget()
        say(f"\n  stopping{dim(' (a second or two)')}")
        # The reconciler must be gone before the bots are, or it would start them again: both get the signal now, and
        # what a dying API still starts is found by the second look.
        await asyncio.gather(supervisor.stop(), local.stop_bots())
        await local.stop_bots()
        local.stop_database()
        record.end()
        _note(plan.home, "up.stop")
        say(f"  {good('✓')} all stopped in {time.monotonic() - begun:.1f} s; `wopr up` continues where it was")


_STOPPED = object()


async def _or_stop(work: Any, stop: asyncio.Event) -> Any:  # Any: whatever the work returns
    """The result of the work, or the stop mark when a signal came first."""
    task, signalled = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((task, signalled), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if task.done():
        return task.result()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return _STOPPED


async def _welcome(plan: Plan, local: Any, seconds: float) -> None:  # Any: the class is imported where it is used
    link = await local.finish()
    _note(plan.home, "up.start", seconds=round(seconds, 2), ui_port=plan.ports.ui, api_port=plan.ports.api)
    greet(
        plan.progress,
        Started(
            plan.home,
            f"http://localhost:{plan.ports.ui}",
            link,
            seconds,
            plan.prefix,
            plan.ports.resend if plan.resend else None,
            plan.ports.stripe if plan.stripe else None,
        ),
        as_json=plan.as_json,
    )


def _refuse_reset(state: dict[str, Any], folder: Path) -> None:
    pid = f"{state['supervisor']['pid']:.0f}"
    fail(f"It runs already on {folder} (pid {pid}).", remedy=f"Stop it first: kill {pid}", code=output.REFUSED)


def _describe(plan: Plan, *, wiped: bool) -> None:
    rows = [(p.name, p.address, p.purpose, ", ".join(p.after)) for p in plan.processes]
    if plan.as_json:
        facts = {"home": str(plan.home), "wiped": wiped, "processes": [p.name for p in plan.processes]}
        output.json_line({"event": "plan", **facts})
    else:
        if wiped:
            say(f"Would delete everything under {plan.home}: accounts, payments, bots and their memories.")
        say(f"Would run on {plan.home}:")
        output.table(("name", "address", "purpose", "after"), [("postgres", "", "database", ""), *rows], "Nothing.")


def _end_leftovers(record: Any, folder: Path) -> None:  # Any: the class is imported where psutil is wanted
    from wopr.core.postgres import EmbeddedPostgres

    left = list(record.end_leftovers())
    if EmbeddedPostgres(folder).stop_leftover():
        left.append("postgres")
    if left:
        _note(folder, "up.cleanup", ended=left)
        say(f"  {warn('!')} the last run was killed; ended what it left behind: {', '.join(left)}\n")


def _wipe(folder: Path, *, yes: bool) -> bool:
    """Delete the folder; False when there is none."""
    from wopr.fleet.runtimes.ending import stop_all

    if not _is_there(folder):
        return False
    output.confirm(f"Delete everything under {folder}: accounts, payments, bots and their memories?", yes=yes)
    stop_all(folder)
    shutil.rmtree(folder)
    return True


def _is_there(folder: Path) -> bool:
    """Whether there is something to wipe; refused where it is not ours."""
    if not folder.exists():
        return False
    if any(folder.iterdir()) and not (folder / "secrets.env").exists():
        fail(
            f"{folder} holds files but no data of WOPR.",
            remedy="Name the right folder with --home.",
            code=output.REFUSED,
        )
    return True


def _plan(folder: Path, ports: Ports, stages: "Progress", as_json: bool) -> Plan:
    stripe, resend = (not _given(folder, name) for name in ("STRIPE_SECRET_KEY", "RESEND_API_KEY"))
    return Plan(
        folder, ports, stripe, resend, stages, as_json, prefix_of(folder, _default_home().expanduser().resolve())
    )


def _default_home() -> Path:
    return Path(os.environ.get("WOPR_HOME", ".wopr"))


def _given(folder: Path, name: str) -> bool:
    """Whether the operator set it: in the environment, or in the file of secrets that every process reads."""
    from wopr.core.files import read_secret

    return bool(os.environ.get(name) or read_secret(folder, name))


def _note(folder: Path, name: str, **data: Any) -> None:  # whatever json can write
    """Record in the journal what was done to the whole installation."""
    from wopr.core.ids import new_id
    from wopr.ops.journal import Journal

    Journal(folder).append(str(new_id()), name, "note", data)


def _require_free_ports(processes: list[Process]) -> None:
    from wopr.cli.ports import holder_of_port

    takers: dict[int, str] = {}
    for name, port in [(process.name, port) for process in processes for port in (process.port, *process.also)]:
        if (other := takers.setdefault(port, name)) != name:
            fail(
                f"Port {port} is meant for both {other} and {name}.",
                remedy=f"Choose another: wopr up {PORT_OPTIONS.get(name, '--engine-port')} {_another(port, processes)}",
                code=output.USAGE,
            )
        if (holder := holder_of_port(port)) is not None:
            option = PORT_OPTIONS.get(name, "--engine-port")
            fail(
                f"Port {port}, which {name} needs, is in use{holder}.",
                remedy=f"Stop that process, or choose another port: wopr up {option} {_another(port, processes)}",
            )


def _another(port: int, processes: list[Process]) -> int:
    """A port to propose: not this one, and none of ours."""
    ours = {each for process in processes for each in (process.port, *process.also)}
    begin = port + 1000 if port + 2000 < PORT_MAX else port - 2000
    return next(each for each in range(begin, PORT_MAX) if each not in ours)
