"""`wopr machine provision vps`: the machine on which an installation will stand, rented at DigitalOcean."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli import output
from wopr.cli.installation import Teller
from wopr.cli.options import shared
from wopr.cli.output import DryRunOption, ExitCodeOption, JsonOption, ProgressKind, ProgressOption, YesOption

if TYPE_CHECKING:
    from wopr.cloud.compute import Compute, Machine
    from wopr.delivery.vps import Proposal, Wish

NAME = "wopr-vps"
KEYS = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")
SSH_SECONDS = 300.0

app = typer.Typer(help="Machines for installations, rented.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def machines() -> None:
    """Machines for installations, rented."""


class Kind(StrEnum):
    """What the machine is for. Nodes are rented by `wopr nodes provision`."""

    VPS = "vps"


@app.command("provision", epilog="Example: wopr machine provision vps --region tor1 --size s-2vcpu-4gb --dry-run")
@shared
def provision(
    kind: Annotated[Kind, typer.Argument(help="vps: the host of an installation.")],
    name: Annotated[str, typer.Option(help="Its name, by which it is found again.")] = NAME,
    region: Annotated[str, typer.Option(help="Where; nodes must be rented in the same region.")] = "tor1",
    size: Annotated[str, typer.Option(help="What, as `wopr nodes sizes` lists it.")] = "s-2vcpu-4gb",
    ssh_key: Annotated[
        Path | None, typer.Option(help="File with your public key; default: the first in ~/.ssh.", show_default=False)
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for SSH to answer.")] = SSH_SECONDS,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Rent a machine with Docker, your key and a firewall that lets in SSH, http and https. Shows the price first.

    A machine of that name that is there already is not made again; it gets its firewall, and is waited for.
    """
    from wopr.delivery.vps import Wish, public_key_of

    file = _key_file(ssh_key)
    wish = Wish(name, region, size, public_key_of(file.read_text(encoding="utf-8").splitlines()))
    proposal = asyncio.run(_propose(wish))
    document = _document(wish, proposal)
    if proposal.size is not None:
        words = f"{name}: {size} in {region}, ${document['monthly_usd']} a month"
        if not dry_run:
            output.confirm(f"Rent {words}?", yes=yes)
    else:
        words = f"{name} is there already"
    if dry_run:
        _say({**document, "dry_run": True}, f"would rent {words}" if proposal.size else words, as_json=as_json)
        return
    tell = Teller(output.progress(progress, as_json=as_json), name)
    machine, answers = asyncio.run(_provision(wish, tell, wait))
    address = machine.public_ip or ""
    done = {**document, "id": machine.id, "public_ip": address, "private_ip": machine.private_ip}
    done |= {"ssh": answers, "dry_run": False}
    _say(done, f"{name} is {address}", as_json=as_json)
    for step in _next(address):
        output.say(f"  next: {step}")
    if proposal.there is not None:
        output.nothing_to_do(exit_code)


async def _propose(wish: "Wish") -> "Proposal":
    from wopr.delivery.vps import propose

    async with _cloud() as cloud:
        return await propose(cloud, wish)


async def _provision(wish: "Wish", tell: Teller, wait: float) -> "tuple[Machine, bool]":
    from wopr.core.settings import load_settings
    from wopr.delivery.vps import provision as rent
    from wopr.delivery.vps import reachable
    from wopr.ops.journal import Journal

    journal = Journal(load_settings().wopr_home)
    data = {"machine": wish.name, "size": wish.size, "region": wish.region}
    with journal.operation("machine.provision", **data) as operation:

        def step(what: str, detail: str) -> None:
            operation.step(what, detail=detail)
            tell(what, detail)

        async with _cloud() as cloud:
            machine = await rent(cloud, wish, step)
        operation.outcome.update(id=machine.id, address=machine.public_ip)
    answers = await reachable(machine.public_ip or "", wait)
    if wait and not answers:
        output.say(f"{output.warn('!')} SSH does not answer yet at {machine.public_ip}")
    return machine, answers


@asynccontextmanager
async def _cloud() -> "AsyncIterator[Compute]":
    """The cloud of the settings, for as long as it is asked."""
    import httpx

    from wopr.cloud.digitalocean import digitalocean
    from wopr.core.settings import load_settings

    async with httpx.AsyncClient() as http:
        yield digitalocean(load_settings(), http)


def _key_file(given: Path | None) -> Path:
    """The file with the operator's public key."""
    known = [given] if given is not None else [Path.home() / ".ssh" / name for name in KEYS]
    file = next((file for file in known if file.is_file()), None)
    if file is None:
        what = str(given) if given is not None else "A public SSH key in ~/.ssh"
        output.fail(f"{what} does not exist.", remedy="ssh-keygen -t ed25519, or --ssh-key FILE")
    return file


def _document(wish: "Wish", proposal: "Proposal") -> dict[str, Any]:  # what JSON can write
    cents = proposal.size.monthly_cents if proposal.size else 0
    there = proposal.there
    return {
        "name": wish.name,
        "size": there.size if there else wish.size,
        "region": there.region if there else wish.region,
        "monthly_usd": f"{cents / 100:.2f}" if proposal.size else None,
        "there": there is not None,
        "id": there.id if there else None,
        "public_ip": there.public_ip if there else None,
        "private_ip": there.private_ip if there else None,
    }


def _next(address: str) -> tuple[str, ...]:
    return (
        f"ssh root@{address} cloud-init status --wait   (compare the key that it shows with the console's)",
        f"wopr deploy --set WOPR_DOMAIN=example.com --host root@{address}",
        f"wopr dns apply --host root@{address}",
    )


def _say(document: dict[str, Any], words: str, *, as_json: bool) -> None:  # what JSON can write
    if as_json:
        output.json_document(document)
    else:
        output.result(words)
