"""Each planted fault of names and certificates is named with its remedy; a sound edge has none."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from tests.delivery.authority import TOKEN, Zone, self_signed, zone

from wopr.cloud import certificate as certificates
from wopr.cloud.certificate import Served
from wopr.cloud.dns import DnsRecord
from wopr.cloud.lookup import Answered
from wopr.core.settings import Settings
from wopr.delivery.certificate_look import CertificateSeen
from wopr.delivery.certificates import Attempts, wait_seconds, wanted_names
from wopr.delivery.edge import edge_settings
from wopr.delivery.edge_checks import certificate_fetched, certificate_shown, checks
from wopr.delivery.hosts import LocalHost
from wopr.delivery.name_look import NameSeen, faults
from wopr.delivery.names import MARK, names_of
from wopr.delivery.place import Place
from wopr.ops.checks import Finding, Verdict, run_checks

NOW = datetime(2026, 11, 30, tzinfo=UTC)
HERE = "203.0.113.7"
PROXY = "104.21.5.6"
NAMES = wanted_names("wopr.bot")


def certificate(left: timedelta, names: tuple[str, ...] = NAMES, days: int = 90) -> certificates.Certificate:
    made = self_signed(list(names), NOW + left, NOW + left - timedelta(days=days))
    return certificates.read(made.certificate)


GOOD = certificate(timedelta(days=80))
SOUND = CertificateSeen("wopr.bot", True, NAMES, GOOD, "600", Attempts(), Served(GOOD))
AT = DnsRecord("api.wopr.bot", "A", HERE, comment=f"{MARK}wopr", id="1")
SEEN = NameSeen("api.wopr.bot", [AT], [Answered("ada", (HERE,))], [Answered("ada", (), "no AAAA record")])


def test_a_sound_edge_has_no_fault() -> None:
    assert faults([SEEN], HERE) == []
    assert certificate_fetched(SOUND, NOW).verdict is Verdict.OK
    assert certificate_shown(SOUND, NOW).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("seen", "says", "remedy"),
    [
        (replace(SEEN, records=[]), "has no record", "wopr dns apply"),
        (replace(SEEN, records=[replace(AT, proxied=True)]), "is proxied", "grey"),
        (replace(SEEN, records=[replace(AT, content="203.0.113.1")]), "leads to 203.0.113.1", "wopr dns apply"),
        (replace(SEEN, records=[replace(AT, content="203.0.113.1", comment="")]), "leads to 203.0.113.1", "--replace"),
        (replace(SEEN, records=[replace(AT, type="CNAME", content="x.example")]), "leads to x.example", "apply"),
        (replace(SEEN, records=[AT, replace(AT, content="203.0.113.1")]), "leads to 203.0.113.1", "wopr dns apply"),
        (replace(SEEN, records=[AT, replace(AT, type="AAAA", content="2001:db8::1")]), "2001:db8::1", "wopr dns apply"),
        (replace(SEEN, answers=[Answered("bob", (PROXY, "172.67.1.1"))]), "Cloudflare's proxy (asked: bob)", "grey"),
        (replace(SEEN, answers=[Answered("bob", ("203.0.113.1",))]), "answers 203.0.113.1, not", "time to live"),
        (replace(SEEN, answers=[Answered("bob", (HERE, "203.0.113.1"))]), "answers", "time to live"),
        (replace(SEEN, answers=[Answered("bob", (), "no such name")]), "no answer: no such name", "wopr dns apply"),
        (replace(SEEN, six=[Answered("bob", ("2001:db8::1",))]), "over IPv6 to 2001:db8::1", "--replace"),
        (replace(SEEN, records=None, answers=[Answered("bob", (PROXY,))]), "Cloudflare's proxy", "grey"),
    ],
)
def test_a_name_that_leads_elsewhere_is_named_with_its_remedy(seen: NameSeen, says: str, remedy: str) -> None:
    (fault,) = faults([seen], HERE)
    assert says in fault.says
    assert fault.says.startswith("api.wopr.bot")
    assert remedy in fault.remedy


ENDED = certificate(timedelta(days=-1))
ENDING = certificate(timedelta(days=9))
DUE = certificate(timedelta(days=29))
SHORT = certificate(timedelta(days=2), days=6)
BROKEN = replace(GOOD, chained=False)
FEW = certificate(timedelta(days=80), ("wopr.bot", "*.wopr.bot"))
WRONG = Attempts("2026-11-29T00:00:00+00:00", "the token is wrong", 3)


@pytest.mark.parametrize(
    ("seen", "verdict", "says", "remedy"),
    [
        (replace(SOUND, stored=None), Verdict.FAILED, "no certificate was fetched yet", "wopr certs issue"),
        (replace(SOUND, stored=None, attempts=WRONG), Verdict.FAILED, "the token is wrong", "wopr certs issue"),
        (replace(SOUND, stored=ENDED), Verdict.FAILED, "expired on 2026-11-29", "wopr certs renew"),
        (replace(SOUND, stored=ENDING), Verdict.WARNING, "renewing is late", "wopr certs renew"),
        (replace(SOUND, stored=DUE), Verdict.OK, "until 2026-12-29", ""),
        (replace(SOUND, stored=SHORT), Verdict.OK, "until 2026-12-02", ""),
        (replace(SOUND, attempts=WRONG), Verdict.WARNING, "the last renewal failed: the token is wrong", "renew"),
        (replace(SOUND, stored=FEW), Verdict.FAILED, "does not cover *.bots.wopr.bot", "wopr certs renew"),
        (replace(SOUND, stored=BROKEN), Verdict.FAILED, "chain is broken", "wopr certs renew"),
        (replace(SOUND, mode="644"), Verdict.FAILED, "the key has mode 644", "chmod 600"),
        (replace(SOUND, by_dns=False, stored=None), Verdict.SKIPPED, "WOPR_TLS=dns", ""),
    ],
)
def test_a_certificate_in_the_folder_is_judged(seen: CertificateSeen, verdict: Verdict, says: str, remedy: str) -> None:
    _is(certificate_fetched(seen, NOW), verdict, says, remedy)


@pytest.mark.parametrize(
    ("seen", "verdict", "says", "remedy"),
    [
        (replace(SOUND, served=Served(None, "refused")), Verdict.FAILED, "is shown: refused", "wopr certs issue"),
        (replace(SOUND, served=Served(ENDED, "expired")), Verdict.FAILED, "is shown expired on", "wopr certs renew"),
        (replace(SOUND, served=Served(GOOD, "self-signed certificate")), Verdict.FAILED, "browsers refuse", "certs"),
        (replace(SOUND, served=Served(DUE)), Verdict.FAILED, "another certificate is shown", "docker restart"),
        (
            replace(SOUND, by_dns=False, stored=None, served=Served(ENDING)),
            Verdict.WARNING,
            "it expires on",
            "docker logs",
        ),
        (replace(SOUND, by_dns=False, stored=None), Verdict.OK, "signed by", ""),
    ],
)
def test_what_the_server_shows_is_judged(seen: CertificateSeen, verdict: Verdict, says: str, remedy: str) -> None:
    _is(certificate_shown(seen, NOW), verdict, says, remedy)


def _is(finding: Finding, verdict: Verdict, says: str, remedy: str) -> None:
    assert finding.verdict is verdict
    assert says in finding.evidence
    assert remedy in finding.remedy


def test_a_chain_whose_parts_do_not_sign_each_other_is_seen() -> None:
    one, two = (self_signed(["wopr.bot"], NOW + timedelta(days=80)) for _ in range(2))
    assert certificates.read(one.certificate).chained
    assert not certificates.read(one.certificate + two.certificate).chained
    assert certificates.fits(one.certificate, one.key)
    assert not certificates.fits(one.certificate, two.key)


def test_a_failed_renewal_waits_longer_each_time_up_to_half_a_day() -> None:
    tried = NOW.isoformat()
    waits = [wait_seconds(Attempts(tried, "wrong", failures), NOW) for failures in (0, 1, 2, 3, 20)]
    assert waits == [0, 900, 1800, 3600, 12 * 3600]
    assert wait_seconds(Attempts(tried, "wrong", 1), NOW + timedelta(hours=1)) == 0


@pytest.fixture
def names(tmp_path: Path) -> Iterator[Zone]:
    with zone(tmp_path) as made:
        yield made


async def _verdicts(folder: Path) -> dict[str, Finding]:
    outcomes = await run_checks(checks(LocalHost(), Place(str(folder)), Settings(wopr_home=folder)))
    return {outcome.name: outcome.finding for outcome in outcomes}


async def test_a_proxied_record_fails_what_the_api_says_and_what_is_answered(tmp_path: Path, names: Zone) -> None:
    lines = {"WOPR_DOMAIN": "wopr.bot", "CLOUDFLARE_API_TOKEN": TOKEN, "PUBLIC_ADDRESS": HERE}
    lines |= {"CLOUDFLARE_API_BASE": f"{names.url}/client/v4", "DNS_SERVERS": names.server, "WOPR_TLS": "dns"}
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=f"{names.url}/client/v4", headers=headers) as client:
        where = f"/zones/{(await client.get('/zones')).json()['result'][0]['id']}/dns_records"
        for name in names_of("wopr.bot"):
            await client.post(where, json={"type": "A", "name": name, "content": HERE})
        sound = await _verdicts(tmp_path)
        assert (sound["dns.records"].verdict, sound["dns.answers"].verdict) == (Verdict.OK, Verdict.OK)
        assert sound["tls.certificate"].verdict is Verdict.FAILED
        for record in (await client.get(where)).json()["result"]:
            await client.patch(f"{where}/{record['id']}", json={"proxied": True})
    found = await _verdicts(tmp_path)
    assert found["dns.records"].verdict is Verdict.FAILED
    assert "wopr.bot is proxied" in found["dns.records"].evidence
    assert "Cloudflare's proxy" in found["dns.answers"].evidence
    assert "wopr dns apply" in found["dns.answers"].remedy


async def test_on_a_laptop_nothing_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WOPR_DOMAIN=localhost\nWOPR_SCHEME=http://\n")
    assert {finding.verdict for finding in (await _verdicts(tmp_path)).values()} == {Verdict.SKIPPED}


def test_roots_of_a_host_that_is_looked_at_from_elsewhere_are_those_that_the_operator_has(tmp_path: Path) -> None:
    ours = tmp_path / "roots.pem"
    ours.write_text("roots")
    settings = Settings(wopr_home=tmp_path, acme_ca_bundle=ours)
    theirs = {"WOPR_DOMAIN": "wopr.bot", "ACME_CA_BUNDLE": "/somewhere/on/the/host.pem"}
    assert edge_settings(theirs, settings, "wopr").roots == str(ours)
    assert edge_settings({**theirs, "ACME_CA_BUNDLE": str(ours)}, Settings(wopr_home=tmp_path), "wopr").roots == str(
        ours
    )
    assert edge_settings(theirs, Settings(wopr_home=tmp_path), "wopr").roots is None
