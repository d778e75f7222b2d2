"""Certificates by DNS-01: certbot asks the authority, we set and remove the records, Caddy reads the result as a file.

Runs where the installation's folder is, in a container of the stack. Caddy asks for `served/certificate.pem` at each
handshake, so that replacing that file renews without a reload, and no connection is touched. See decision 0015.
"""

import asyncio
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from wopr.cloud import certificate as certificates
from wopr.cloud.certificate import Certificate
from wopr.cloud.dns import DnsRecord
from wopr.cloud.lookup import Server, ask, servers_named
from wopr.core.environment import environment
from wopr.core.errors import Invalid, WoprError
from wopr.core.files import replace_text
from wopr.core.settings import Settings
from wopr.delivery.edge import EdgeSettings, dns_of
from wopr.delivery.names import BOTS_LABEL
from wopr.delivery.place import Place

CERTBOT = ("-c", "import sys; from certbot.main import main; sys.exit(main())")
AGENT = "wopr.delivery.certificate_agent"
LINEAGE = "edge"
CERTBOT_SECONDS_MAX = 600.0
CHALLENGE = "_acme-challenge."
# Not the mark of `wopr dns apply`, which would take such a record for one that is left over.
CHALLENGE_MARK = "certificate for wopr: "
CHALLENGE_TTL_SECONDS = 60
VISIBLE_SECONDS_MAX = 120.0
LOOK_SECONDS = 1.0
# Our look comes from one place, the authority's from several: the company's servers elsewhere get some seconds more.
SETTLE_SECONDS = 8.0
# The authority allows five failed validations of a name in an hour.
RETRY_SECONDS = 900.0
RETRY_SECONDS_MAX = 12 * 3600.0
LOG_LINES = 3

Step = Callable[[str, str], None]


@dataclass(frozen=True)
class Authority:
    """Who signs. `roots` is the file by which its directory is trusted; None: what everybody trusts."""

    directory: str
    email: str
    roots: Path | None


@dataclass(frozen=True)
class Attempts:
    """What became of the last tries; kept in the folder, so that a restart neither forgets nor hammers."""

    tried_at: str = ""
    error: str = ""
    failures: int = 0


class CertificateFailed(WoprError):
    """The authority gave no certificate."""

    status = 502
    default_code = "certificate_failed"


def wanted_names(domain: str) -> tuple[str, ...]:
    """What the certificate is for: the domain, everything below it, and every bot."""
    return (domain, f"*.{domain}", f"*.{BOTS_LABEL}.{domain}")


def authority_of(theirs: Mapping[str, str], settings: Settings) -> Authority:
    roots = theirs.get("ACME_CA_BUNDLE") or settings.acme_ca_bundle
    return Authority(
        theirs.get("ACME_DIRECTORY") or settings.acme_directory,
        theirs.get("ACME_EMAIL") or settings.acme_email,
        Path(roots) if roots else None,
    )


def certbot_command(place: Place, authority: Authority, names: Sequence[str]) -> tuple[str, ...]:
    """certbot's call; it runs our agent for each record that it wants to be there, and again to be rid of it."""
    folder = f"{place.certificates}/certbot"
    hook = shlex.join((sys.executable, "-m", AGENT, "challenge", "--dir", place.dir, "--name", place.name))
    who = ("--email", authority.email) if authority.email else ("--register-unsafely-without-email",)
    return (
        *(sys.executable, *CERTBOT, "certonly", "--non-interactive", "--agree-tos", *who),
        *("--server", authority.directory, "--cert-name", LINEAGE, "--key-type", "ecdsa"),
        *("--config-dir", folder, "--work-dir", f"{folder}/work", "--logs-dir", f"{folder}/logs"),
        *("--max-log-backups", "10", "--renew-with-new-domains", "--force-renewal"),
        *("--manual", "--preferred-challenges", "dns"),
        *("--manual-auth-hook", hook, "--manual-cleanup-hook", f"{hook} --remove"),
        *(word for name in names for word in ("--domain", name)),
    )


def stored(place: Place) -> Certificate | None:
    """The certificate that Caddy is given; None when there is none, or what is there is none."""
    try:
        return certificates.read(Path(place.chain).read_bytes())
    except (FileNotFoundError, Invalid):
        return None


def read_attempts(text: str) -> Attempts:
    """What became of the last tries, from the file's text."""
    try:
        return Attempts(**json.loads(text)) if text else Attempts()
    except (ValueError, TypeError):
        return Attempts()


def wait_seconds(attempts: Attempts, now: datetime) -> float:
    """How long a further try has to wait after failures; pure."""
    if not attempts.failures:
        return 0.0
    pause = min(RETRY_SECONDS * 2.0 ** (attempts.failures - 1), RETRY_SECONDS_MAX)
    return max(0.0, pause - (now - datetime.fromisoformat(attempts.tried_at)).total_seconds())


async def obtain(place: Place, edge: EdgeSettings, authority: Authority, step: Step) -> Certificate:
    """Get a new certificate and give it to Caddy, whether or not one is due.

    CloudError or CertificateFailed when there is none; the old one stays.
    """
    names = wanted_names(edge.require_domain())
    attempts = read_attempts(_text(place.attempts))
    tried = replace(attempts, tried_at=datetime.now(UTC).isoformat(timespec="seconds"))
    try:
        async with dns_of(edge) as dns:  # a wrong token is told here, in words, and not from inside certbot
            zone = await dns.zone_of(edge.domain)
        step("asking", f"{authority.directory} for {', '.join(names)}")
        await _run_certbot(place, authority, names)
        made = install(place, names)
    except WoprError as error:
        _remember(place, replace(tried, error=error.message, failures=attempts.failures + 1))
        raise
    _remember(place, replace(tried, error="", failures=0))
    step("installed", f"valid until {made.not_after:%Y-%m-%d %H:%M} UTC, signed by {made.issuer} ({zone.name})")
    return made


def install(place: Place, names: Sequence[str]) -> Certificate:
    """Give Caddy what certbot got: key and chain in one file, readable by root only, replaced in one step."""
    live = Path(place.certificates) / "certbot" / "live" / LINEAGE
    chain, key = (live / "fullchain.pem").read_bytes(), (live / "privkey.pem").read_bytes()
    made = certificates.read(chain)
    if not certificates.fits(chain, key) or not made.chained or not all(made.covers(name) for name in names):
        raise CertificateFailed("What certbot got does not fit together.", remedy=f"Look into {live}.")
    replace_text(Path(place.served), key.decode() + chain.decode())
    replace_text(Path(place.chain), chain.decode())
    return made


async def challenge(edge: EdgeSettings, name: str, value: str, *, more: int) -> None:
    """Set the record that proves the domain, and wait until every name server of the zone answers with it.

    `more` is how many such records are still to come; only after the last one the servers elsewhere are waited for.
    """
    async with dns_of(edge) as dns:
        zone = await dns.zone_of(edge.domain)
        await dns.create(zone, _challenge(edge, name, value))
    asked = edge.name_servers or await servers_named(zone.name_servers)
    async with asyncio.timeout(VISIBLE_SECONDS_MAX):
        await asyncio.gather(*(_visible(CHALLENGE + name, value, server) for server in asked))
    if not edge.name_servers and not more:
        await asyncio.sleep(SETTLE_SECONDS)


async def unchallenge(edge: EdgeSettings, name: str, value: str) -> None:
    """Remove that record."""
    wanted = _challenge(edge, name, value)
    async with dns_of(edge) as dns:
        zone = await dns.zone_of(edge.domain)
        for record in await dns.records(zone, name=wanted.name, type=wanted.type):
            if record.content == wanted.content:
                await dns.delete(zone, record)


def _challenge(edge: EdgeSettings, name: str, value: str) -> DnsRecord:
    comment = CHALLENGE_MARK + edge.installation
    return DnsRecord(CHALLENGE + name, "TXT", f'"{value}"', CHALLENGE_TTL_SECONDS, comment=comment)


async def _visible(name: str, value: str, server: Server) -> None:
    """Wait until a server answers with a value. Nobody tells us: it can only be asked again."""
    while value not in (await ask(name, "TXT", server)).values:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS)


async def _run_certbot(place: Place, authority: Authority, names: Sequence[str]) -> None:
    command = certbot_command(place, authority, names)
    roots = {"REQUESTS_CA_BUNDLE": str(authority.roots)} if authority.roots else {}
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**environment(), **roots},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(CERTBOT_SECONDS_MAX):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise CertificateFailed(f"certbot did not end within {CERTBOT_SECONDS_MAX:.0f} s.") from None
    except asyncio.CancelledError:
        process.terminate()
        await process.wait()
        raise
    if process.returncode:
        log = f"{place.certificates}/certbot/logs/letsencrypt.log"
        raise CertificateFailed(f"certbot got no certificate: {_why(out.decode())}", remedy=f"Its log is {log}.")


def _why(output: str) -> str:
    """The lines of certbot's output that say what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("Detail:", "Type:", "Hook '", "An unexpected error"))]
    dull = ("Saving debug log", "Ask for help", "See the logfile", "- - -")
    rest = [line for line in lines if not line.startswith(dull)]
    return " ".join((telling or rest)[-LOG_LINES:])


def _remember(place: Place, attempts: Attempts) -> None:
    replace_text(Path(place.attempts), json.dumps(asdict(attempts)))


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
