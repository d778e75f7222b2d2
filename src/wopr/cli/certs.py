"""`wopr certs`: the certificate of an installation by DNS-01: how it stands, a new one now, the loop that keeps it."""

import asyncio
import contextlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from wopr.cli import output
from wopr.cli.installation import Where
from wopr.cli.options import shared
from wopr.cli.output import DryRunOption, ExitCodeOption, JsonOption, ProgressKind, ProgressOption

if TYPE_CHECKING:
    from wopr.delivery.certificate_look import CertificateFault, CertificateSeen
    from wopr.delivery.hosts import Host

FETCH_SECONDS = 900.0

app = typer.Typer(
    help="The certificate of an installation, by DNS-01 at Cloudflare.", no_args_is_help=True, rich_markup_mode=None
)


@dataclass(frozen=True)
class How:
    """How a certificate is fetched."""

    dry_run: DryRunOption = False
    exit_code: ExitCodeOption = False
    progress: ProgressOption = ProgressKind.AUTO
    as_json: JsonOption = False


@app.command("status", epilog="Example: wopr certs status --host root@203.0.113.5")
@shared
def status(where: Where, progress: ProgressOption = ProgressKind.AUTO, as_json: JsonOption = False) -> None:
    """Show the certificate: its names and time, whether it is renewed, and what the server really shows.

    Exit code 3 when something is wrong.
    """
    from wopr.delivery.certificate_look import as_json as document

    with output.progress(progress, as_json=as_json).stage("", "looking at the certificate", keep=False):
        seen, wrong = asyncio.run(_look(where))
    if as_json:
        output.json_document(document(seen, wrong))
    else:
        _tell(seen, wrong)
    if wrong:
        raise typer.Exit(output.REFUSED)


@app.command("issue", epilog="Examples: wopr certs issue --dry-run | wopr certs issue --host root@203.0.113.5")
@shared
def issue(where: Where, how: How) -> None:
    """Fetch a certificate for the domain, everything below it and the bots' names, unless a good one is there."""
    _fetch(where, how, force=False)


@app.command("renew", epilog="Examples: wopr certs renew | wopr certs renew --force")
@shared
def renew(
    where: Where,
    how: How,
    force: Annotated[bool, typer.Option("--force", help="Also while the one that is there is good for long.")] = False,
) -> None:
    """Fetch a new certificate when a third of the time of the one that is there is left. Nothing is restarted."""
    _fetch(where, how, force=force)


def _fetch(where: Where, how: How, *, force: bool) -> None:
    told = output.progress(how.progress, as_json=how.as_json)
    reason = asyncio.run(_due(where, force=force))
    if not reason or how.dry_run:
        if how.as_json:
            output.json_document({"dry_run": how.dry_run, "reason": reason, "fetched": False})
        else:
            output.result(f"would be fetched: {reason}" if reason else "the certificate is good; nothing to do")
        if not reason:
            output.nothing_to_do(how.exit_code)
        return
    with told.stage(where.host or "this machine", "fetching a certificate"):
        asyncio.run(_fetch_there(where, reason))
    seen, wrong = asyncio.run(_look(where, ask=False))
    if how.as_json:
        from wopr.delivery.certificate_look import as_json as document

        output.json_document({"dry_run": False, "reason": reason, "fetched": True, **document(seen, wrong)})
    else:
        _tell(seen, wrong)


async def _due(where: Where, *, force: bool) -> str:
    """Why a certificate is to be fetched; empty when none is."""
    from wopr.cloud.certificate import due
    from wopr.delivery.certificates import wanted_names

    seen, _ = await _look(where, ask=False)
    reason = due(seen.stored, wanted_names(seen.domain), datetime.now(UTC))
    return reason or ("asked for" if force else "")


async def _fetch_there(where: Where, reason: str) -> None:
    """Run certbot on the installation's host, in a container of the image that serves there."""
    from wopr.delivery import commands
    from wopr.delivery.certificates import CertificateFailed
    from wopr.delivery.commands import parsed_env
    from wopr.delivery.errors import Refused
    from wopr.delivery.setup import settings_there

    host = where.machine()
    try:
        place = await where.place(host)
        image = parsed_env((await host.read(place.stack_env) or b"").decode()).get("WOPR_DELIVERER_IMAGE", "")
        if not image:
            raise Refused(
                f"Nothing is released in {place.dir} yet.", remedy="wopr deploy --set WOPR_DOMAIN=example.com"
            )
        command = commands.certificates(place, image, "fetch", "--reason", reason)
        with contextlib.ExitStack() as stack:
            if where.host:  # there the container journals it; here nobody would know
                knowing = where.journal().knowing(await settings_there(host, place))
                stack.enter_context(knowing.operation("certs.renew", host=where.host, reason=reason))
            done = await host.run(command, timeout=FETCH_SECONDS)
            if not done.ok:
                said = [line.strip() for line in done.err.decode(errors="replace").splitlines() if line.strip()]
                error = next((line for line in said if line.startswith("error:")), said[-1] if said else done.complaint)
                remedy = next((line.removeprefix("fix:").strip() for line in said if line.startswith("fix:")), "")
                raise CertificateFailed(error.removeprefix("error:").strip(), remedy=remedy)
    finally:
        await host.close()


async def _look(where: Where, *, ask: bool = True) -> "tuple[CertificateSeen, list[CertificateFault]]":
    from wopr.core.settings import load_settings
    from wopr.delivery.certificate_look import faults, look_certificate
    from wopr.delivery.edge import address_of, edge_of

    host: Host = where.machine()
    try:
        place = await where.place(host)
        edge = await edge_of(host, place, load_settings())
        edge.require_domain()
        # Named by its address, the host itself is asked, wherever the domain's name leads by now.
        edge = replace(edge, address=edge.address or address_of(where.host))
        seen = await look_certificate(host, place, edge, ask=ask)
    finally:
        await host.close()
    return seen, list(faults(seen, datetime.now(UTC)))


def _tell(seen: "CertificateSeen", wrong: "list[CertificateFault]") -> None:
    for word, certificate in (("fetched", seen.stored), ("shown", seen.served.certificate if seen.served else None)):
        if certificate is not None:
            renewal = f", renewed from {certificate.renew_from():%Y-%m-%d}" if word == "fetched" else ""
            until = f"until {certificate.not_after:%Y-%m-%d %H:%M} UTC{renewal}"
            output.result(f"{word}: {', '.join(certificate.names)}  {until}, signed by {certificate.issuer}")
    for fault in wrong:
        output.result(f"{output.warn('!') if fault.late else output.bad('✗')} {fault.says}")
        output.say(f"    fix: {fault.remedy}")
