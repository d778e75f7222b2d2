"""`wopr dns`: the names that lead to an installation: made, looked at, and asked for where customers ask."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from wopr.cli import output
from wopr.cli.installation import Teller, Where
from wopr.cli.options import shared
from wopr.cli.output import DryRunOption, ExitCodeOption, JsonOption, ProgressKind, ProgressOption

if TYPE_CHECKING:
    from wopr.cloud.dns import Dns, DnsRecord, Zone
    from wopr.delivery.edge import EdgeSettings
    from wopr.delivery.hosts import Host
    from wopr.delivery.name_look import NameFault, NameSeen
    from wopr.delivery.names import Plan
    from wopr.delivery.place import Place
    from wopr.ops.journal import Operation

app = typer.Typer(
    help="The names that lead to an installation, at Cloudflare.", no_args_is_help=True, rich_markup_mode=None
)

AddressOption = Annotated[
    str,
    typer.Option("--address", help="IPv4 address of the host; default: PUBLIC_ADDRESS, or its own if it is public."),
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Replace records of others that lead our names elsewhere, without asking.")
]


@dataclass(frozen=True)
class Wish:
    """What was asked for on the command line."""

    address: str
    replace_others: bool
    dry_run: bool


@dataclass(frozen=True)
class Done:
    """What was planned, and whether it was carried out."""

    edge: "EdgeSettings"
    zone: "Zone"
    plan: "Plan"


@app.command("apply", epilog="Examples: wopr dns apply --dry-run | wopr dns apply --host root@203.0.113.5")
@shared
def apply(
    where: Where,
    address: AddressOption = "",
    replace_others: ReplaceOption = False,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Make the domain, api., app. and the bots' names lead to the host, with Cloudflare's proxy off.

    Only records that wopr made are changed or removed; those of others are named, and stay unless you say otherwise.
    """
    tell = Teller(output.progress(progress, as_json=as_json), "Cloudflare")
    done = asyncio.run(_apply(where, Wish(address, replace_others, dry_run), tell))
    plan = done.plan
    if as_json:
        output.json_document(_as_json(done) | {"dry_run": dry_run})
    else:
        _tell(done, dry_run=dry_run)
    if plan.others and not _given_way(plan):
        output.fail(
            f"{plan.others[0].name} is led elsewhere by a record that wopr did not make.",
            remedy=where.paste("wopr dns apply --replace"),
            code=output.REFUSED,
        )
    if not plan.changes:
        output.nothing_to_do(exit_code)


@app.command("check", epilog="Example: wopr dns check --host root@203.0.113.5")
@shared
def check(
    where: Where,
    address: AddressOption = "",
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Compare what the API says and what name servers answer with where the names should lead.

    Exit code 3 when something differs.
    """
    with output.progress(progress, as_json=as_json).stage("", "asking name servers", keep=False):
        seen, wrong = asyncio.run(_check(where, address))
    if as_json:
        names = [asdict(name) for name in seen]
        output.json_document({"ok": not wrong, "names": names, "faults": [asdict(fault) for fault in wrong]})
    else:
        for name in seen:
            _tell_name(name, [fault for fault in wrong if fault.name == name.name])
    if wrong:
        raise typer.Exit(output.REFUSED)


@app.command("list", epilog="Example: wopr dns list --json")
@app.command("ls", hidden=True, epilog="Example: wopr dns ls")
@shared
def listed(where: Where, as_json: JsonOption = False) -> None:
    """List every record of the zone, and whose it is."""
    records = asyncio.run(_records(where))
    if as_json:
        output.json_document([asdict(record) for record in records])
        return
    rows = [(r.type, r.name, r.content, "proxied" if r.proxied else "", r.comment) for r in records]
    output.table(("type", "name", "content", "proxy", "comment"), rows, "The zone has no records.")


async def _apply(where: Where, wish: Wish, tell: Teller) -> Done:
    from wopr.delivery.edge import dns_of
    from wopr.delivery.names import plan, wanted

    host = where.machine()
    try:
        edge, place = await _edge(where, host, wish.address)
        async with dns_of(edge) as dns:
            zone = await dns.zone_of(edge.require_domain())
            existing = await dns.records(zone)
            wishes = wanted(edge.domain, edge.require_address(), place.name)
            made = plan(wishes, existing, replace_others=wish.replace_others)
            if made.others and not wish.replace_others and not wish.dry_run and output.can_ask():
                _confirm(made.others)
                made = plan(wishes, existing, replace_others=True)
            if made.changes and not wish.dry_run:
                with where.journal().operation("dns.apply", zone=zone.name) as operation:
                    await _carry_out(dns, zone, made, Step(operation, tell))
            return Done(edge, zone, made)
    finally:
        await host.close()


def _confirm(others: "Sequence[DnsRecord]") -> None:
    for record in others:
        output.say(f"not made by wopr: {record}")
    output.confirm(f"Replace {len(others)} records that wopr did not make?", yes=False, flag="--replace")


@dataclass(frozen=True)
class Step:
    """A part is done: durable in the journal, and told to whoever watches."""

    operation: "Operation"
    tell: Teller

    def __call__(self, what: str, record: "DnsRecord", **more: str) -> None:
        self.operation.step(what, record=str(record), **more)
        self.tell(what, str(record))


async def _carry_out(dns: "Dns", zone: "Zone", plan: "Plan", step: Step) -> None:
    """Removals last, so that a name leads somewhere throughout; but an alias must go before an address can come."""
    for old, record in zip(plan.before, plan.change, strict=True):
        await dns.change(zone, record)
        step("changed", record, was=str(old))
    await _remove(dns, zone, [record for record in plan.delete if record.type == "CNAME"], step)
    for record in plan.create:
        await dns.create(zone, record)
        step("created", record)
    await _remove(dns, zone, [record for record in plan.delete if record.type != "CNAME"], step)


async def _remove(dns: "Dns", zone: "Zone", records: "Sequence[DnsRecord]", step: Step) -> None:
    for record in records:
        await dns.delete(zone, record)
        step("removed", record)


async def _check(where: Where, address: str) -> "tuple[Sequence[NameSeen], Sequence[NameFault]]":
    from wopr.delivery.name_look import faults, look_names

    host = where.machine()
    try:
        edge, _ = await _edge(where, host, address)
    finally:
        await host.close()
    edge.require_domain()
    seen = await look_names(edge)
    return seen, faults(seen, edge.require_address())


async def _records(where: Where) -> "Sequence[DnsRecord]":
    from wopr.delivery.edge import dns_of

    host = where.machine()
    try:
        edge, _ = await _edge(where, host, "")
    finally:
        await host.close()
    async with dns_of(edge) as dns:
        records = await dns.records(await dns.zone_of(edge.require_domain()))
    return sorted(records, key=lambda record: (record.name.split(".")[::-1], record.type, record.content))


async def _edge(where: Where, host: "Host", address: str) -> "tuple[EdgeSettings, Place]":
    """What the installation says, with the address that the command or the host's own name gives."""
    from wopr.core.settings import load_settings
    from wopr.delivery.edge import address_of, edge_of, is_address

    if address and not is_address(address):
        raise typer.BadParameter(f"{address} is no IPv4 address", param_hint="--address")
    place = await where.place(host)
    edge = await edge_of(host, place, load_settings())
    return replace(edge, address=address or edge.address or address_of(where.host)), place


def _given_way(plan: "Plan") -> bool:
    """Whether the records of others are among those that are changed or removed."""
    touched = {record.id for record in (*plan.before, *plan.delete)}
    return all(record.id in touched for record in plan.others)


def _as_json(done: Done) -> dict[str, object]:
    parts = {name: [asdict(r) for r in getattr(done.plan, name)] for name in ("create", "change", "delete", "kept")}
    others = [asdict(record) for record in done.plan.others]
    return {"zone": done.zone.name, "address": done.edge.address, **parts, "others": others}


def _tell(done: Done, *, dry_run: bool) -> None:
    plan = done.plan
    for word, records in (("create", plan.create), ("change", plan.change), ("remove", plan.delete)):
        for record in records:
            output.result(f"would {word}: {record}" if dry_run else f"{word}d: {record}")
    for record in plan.kept:
        output.say(f"stays: {record}")
    if not _given_way(plan):
        for record in plan.others:
            output.say(f"{output.warn('not ours')}: {record}  {record.comment}".rstrip())
    if not plan.changes and not plan.others:
        output.result(f"every name of {done.edge.domain} leads to {done.edge.address} already")


def _tell_name(seen: "NameSeen", wrong: "Sequence[NameFault]") -> None:
    answers = ", ".join(dict.fromkeys(" ".join(one.values) or one.error for one in seen.answers))
    if not wrong:
        output.result(f"{output.good('✓')} {seen.name}  {answers}")
        return
    for fault in wrong:
        output.result(f"{output.bad('✗')} {fault.says}")
    for remedy in dict.fromkeys(fault.remedy for fault in wrong):
        output.say(f"    fix: {remedy}")
