"""`wopr rollback`: a release of before comes back, without its registry."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from wopr.cli import output
from wopr.cli.installation import Teller, Where, operator
from wopr.cli.options import shared
from wopr.cli.output import DryRunOption, JsonOption, ProgressKind, ProgressOption

if TYPE_CHECKING:
    from wopr.delivery.cutover import Verdict
    from wopr.delivery.rollback import Proposal

EXAMPLES = (
    'Examples: wopr rollback --reason "logins fail" | wopr rollback --to 12 --dry-run'
    " | wopr rollback --host root@api.example.com"
)


@shared
def rollback(
    where: Where,
    to: Annotated[int | None, typer.Option(help="Number of the release; default: the good one before.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for the logbook.")] = "",
    observe: Annotated[float, typer.Option(min=0, help="Seconds for which it is watched afterwards.")] = 0.0,
    ready: Annotated[
        float, typer.Option(min=0, help="Seconds within which it must be ready; 0: by what earlier ones took.")
    ] = 0.0,
    despite_migrations: Annotated[
        bool, typer.Option("--despite-migrations", help="Go back although later migrations may break the old release.")
    ] = False,
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Bring an older release back: its images, its configuration and its settings. The registry is not needed.

    What newer releases did to the database stays; where the old one can't run on that, this is refused.
    """
    machine = where.machine()
    told = output.progress(progress, machine.describe(), as_json=as_json)
    tell = Teller(told, machine.describe())

    async def run() -> "tuple[Proposal, Verdict | None]":
        from wopr.delivery.cutover import Limits
        from wopr.delivery.rollback import Back, propose
        from wopr.delivery.rollback import rollback as go_back

        try:
            place = await where.place(machine)
            if dry_run:
                return await propose(machine, place, to), None
            back = Back(to, reason, operator(), despite_migrations, Limits(ready, observe))
            went = await go_back(machine, place, where.journal(), back, tell)
            return went.proposal, went.verdict
        finally:
            tell.end()
            await machine.close()

    _show(*asyncio.run(run()), as_json=as_json)


def _show(proposal: "Proposal", verdict: "Verdict | None", *, as_json: bool) -> None:
    if as_json:
        document = {
            "from": proposal.current.number,
            "to": proposal.target.number,
            "database_stays": proposal.stays,
            "database_breaks": proposal.breaks,
        }
        output.json_document(document | (asdict(verdict) if verdict else {"dry_run": True}))
        return
    for line in proposal.stays:
        output.say(f"stays in the database: {line}")
    for line in proposal.breaks:
        output.say(f"{output.warn('breaks')} the older release: {line}")
    if verdict is None:
        output.result(f"would go back from release {proposal.current.number} to release {proposal.target.number}")
    else:
        back = f"release {proposal.target.number} serves again, as release {verdict.release}"
        output.result(f"{back}: {verdict.platform} ({verdict.seconds:.1f} s)")
