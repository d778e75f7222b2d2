"""`wopr teardown`: an installation leaves its host, with its data or without."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from wopr.cli import output
from wopr.cli.installation import Teller, Where
from wopr.cli.options import shared
from wopr.cli.output import DryRunOption, ExitCodeOption, JsonOption, ProgressKind, ProgressOption, YesOption

if TYPE_CHECKING:
    from wopr.delivery.teardown import Found

EXAMPLES = "Examples: wopr teardown --dry-run | wopr teardown --host root@api.example.com | wopr teardown --wipe"
WORDS = {
    "containers": "containers of the platform",
    "bots": "containers of bots",
    "services": "services of bots",
    "secrets": "registry credentials on their way to a machine",
    "networks": "networks",
}
WIPED = {
    "volumes": "volumes: the database, certificates",
    "bot_volumes": "volumes of bots: what they know",
    "files": "files",
}


@shared
def teardown(
    where: Where,
    wipe: Annotated[
        bool, typer.Option("--wipe", help="Destroy the data too: database, bots' memories, dumps, releases.")
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Stop an installation and remove its containers and networks. Data stay: `wopr deploy` brings it back as it was.

    With --wipe its data are destroyed, which nothing brings back. .env, the journal and the logbook always stay.
    """
    machine = where.machine()
    told = output.progress(progress, machine.describe(), as_json=as_json)
    tell = Teller(told, machine.describe())

    async def run() -> "tuple[Found, bool]":
        from wopr.delivery.teardown import survey
        from wopr.delivery.teardown import teardown as take_down

        try:
            place = await where.place(machine)
            found = await survey(machine, place)
            if dry_run or not found.anything(wipe=wipe):
                return found, False
            output.confirm(_question(found, f"{place.dir} on {machine.describe()}", wipe=wipe), yes=yes)
            return await take_down(machine, place, where.journal(), wipe=wipe, tell=tell), True
        finally:
            tell.end()
            await machine.close()

    found, done = asyncio.run(run())
    if as_json:
        kept = {} if wipe else {"kept": {name: getattr(found, name) for name in WIPED}}
        here = [*WORDS, *(WIPED if wipe else ())]
        removed = {name: value for name, value in asdict(found).items() if name in here}
        document = {"dry_run": dry_run, "wipe": wipe, "removed" if done else "found": removed, **kept}
        output.json_document(document | {"elsewhere": {"machines": found.elsewhere, "command": found.clearing}})
    else:
        _tell(found, where, wipe=wipe, done=done)
    if not found.anything(wipe=wipe):
        output.nothing_to_do(exit_code)


def _question(found: "Found", what: str, *, wipe: bool) -> str:
    """What would be gone, by its names, and whether it is only stopped or destroyed."""
    lines = [f"  {said}: {', '.join(getattr(found, name))}" for name, said in WORDS.items() if getattr(found, name)]
    if wipe:
        lost = [f"  {said}: {', '.join(getattr(found, name))}" for name, said in WIPED.items() if getattr(found, name)]
        lines += ["DESTROYED, and nothing brings it back:", *lost] if lost else []
    for line in (f"Removed from {what}:", *lines):
        output.say(line)
    return "Destroy all of this?" if wipe else "Stop this installation? Its data stay."


def _tell(found: "Found", where: Where, *, wipe: bool, done: bool) -> None:
    if not found.anything(wipe=wipe):
        output.result("nothing is there to be removed")
        _tell_elsewhere(found, wipe=wipe)
        return
    for name, said in (*WORDS.items(), *WIPED.items()):
        names, goes = getattr(found, name), wipe or name in WORDS
        if names:
            verb = ("removed" if done else "would remove") if goes else ("kept" if done else "would keep")
            output.result(f"{verb} {said}: {', '.join(names)}")
    _tell_elsewhere(found, wipe=wipe)
    if done and not wipe:
        output.result(f"bring it back with: {where.paste('wopr deploy')}")


def _tell_elsewhere(found: "Found", *, wipe: bool) -> None:
    """What a wipe does not reach, and how it is removed there."""
    if wipe and found.elsewhere:
        output.result(f"not reached from here: what bots know on {', '.join(found.elsewhere)}")
        output.result(f"remove it on each of them with: {found.clearing}")
