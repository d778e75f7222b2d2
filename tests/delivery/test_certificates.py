"""Certificates by DNS-01 over the real protocol: certbot, a test authority, and a name server that it asks."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from tests.delivery.authority import TOKEN, Folder, self_signed

from wopr.cloud import certificate as certificates
from wopr.ops.journal import Journal

NAMES = {"wopr.bot", "*.wopr.bot", "*.bots.wopr.bot"}


def test_one_certificate_for_every_name_is_fetched_and_laid_where_caddy_reads_it(folder: Folder) -> None:
    fetched = folder.agent("fetch")
    assert fetched.returncode == 0, fetched.stderr + folder.authority.log.read_text()
    found = folder.certificate()
    assert (set(found.names), found.chained) == (NAMES, True)
    assert certificates.due(found, tuple(NAMES), datetime.now(UTC)) == ""
    served = Path(folder.place.served)
    assert (served.stat().st_mode & 0o777, served.read_bytes().count(b"PRIVATE KEY-----")) == (0o600, 2)
    assert b"PRIVATE KEY" not in Path(folder.place.chain).read_bytes()
    assert folder.zone.records() == [], "what proved the domain is removed"
    entries = [entry for entry in Journal(folder.path).read() if entry.name == "certs.renew"]
    assert entries[-1].data["serial"] == found.serial
    written = (folder.path / "journal.jsonl").read_text()
    assert TOKEN not in written + fetched.stdout + fetched.stderr
    assert "PRIVATE KEY" not in written


def test_the_loop_fetches_what_is_missing_and_leaves_what_is_good(folder: Folder) -> None:
    assert folder.agent("keep", "--once").returncode == 0
    first = folder.certificate()
    assert folder.agent("keep", "--once").returncode == 0
    assert folder.certificate() == first


def test_the_loop_renews_before_the_end(folder: Folder) -> None:
    ending = self_signed(sorted(NAMES), datetime.now(UTC) + timedelta(days=29), datetime.now(UTC) - timedelta(days=61))
    Path(folder.place.chain).parent.mkdir()
    Path(folder.place.chain).write_bytes(ending.certificate)
    assert folder.agent("keep", "--once").returncode == 0
    assert folder.certificate().issuer != certificates.read(ending.certificate).issuer
    (began, *_) = [entry for entry in Journal(folder.path).read() if entry.name == "certs.renew"]
    assert "expires on" in str(began.data["reason"])


def test_a_failure_keeps_the_old_certificate_says_why_and_waits_before_the_next_try(folder: Folder) -> None:
    assert folder.agent("fetch").returncode == 0
    before = folder.certificate()
    folder.set(CLOUDFLARE_API_TOKEN="x" * 40)
    failed = folder.agent("fetch")
    assert failed.returncode == 1
    assert "does not accept CLOUDFLARE_API_TOKEN" in failed.stderr
    assert "DNS:Edit" in failed.stderr
    assert folder.certificate() == before
    attempts = json.loads(Path(folder.place.attempts).read_text())
    assert (attempts["failures"], "CLOUDFLARE_API_TOKEN" in attempts["error"]) == (1, True)
    Path(folder.place.chain).unlink()  # due again, but the failure was just now
    looked = folder.agent("keep", "--once")
    assert (looked.returncode, Path(folder.place.chain).exists()) == (0, False)
    assert json.loads(Path(folder.place.attempts).read_text()) == attempts


def test_what_certbot_says_is_told_with_its_log(folder: Folder) -> None:
    folder.set(ACME_DIRECTORY=folder.authority.directory.replace("/dir", "/nothing"))
    failed = folder.agent("fetch")
    assert failed.returncode == 1
    assert "certbot got no certificate" in failed.stderr
    assert "letsencrypt.log" in failed.stderr
    assert not Path(folder.place.served).exists()


def test_what_the_authority_signs_is_shown_with_its_time(folder: Folder) -> None:
    missing = folder.run("certs", "status")
    assert missing.returncode == 3
    assert "no certificate was fetched yet" in missing.stdout
    assert "wopr certs issue" in missing.stderr
    folder.agent("fetch")
    told = json.loads(folder.run("certs", "status", "--json").stdout)
    assert set(told["stored"]["names"]) == NAMES
    assert told["last_error"] == ""


def test_a_certificate_is_issued_once_and_only_where_something_is_released(folder: Folder) -> None:
    tried = folder.run("certs", "issue", "--dry-run")
    assert (tried.returncode, "would be fetched: there is none" in tried.stdout) == (0, True)
    refused = folder.run("certs", "issue")
    assert refused.returncode == 3
    assert "wopr deploy" in refused.stderr
    folder.agent("fetch")
    assert folder.run("certs", "issue", "--exit-code").returncode == 4
    assert folder.run("certs", "renew", "--exit-code").returncode == 4
    forced = folder.run("certs", "renew", "--force", "--dry-run")
    assert "would be fetched: asked for" in forced.stdout


def test_the_record_of_a_challenge_is_not_taken_for_one_that_is_left_over(folder: Folder) -> None:
    proof = {"CERTBOT_DOMAIN": "wopr.bot", "CERTBOT_VALIDATION": "a-value"}
    assert folder.agent("challenge", **proof).returncode == 0
    assert [record["name"] for record in folder.zone.records()] == ["_acme-challenge.wopr.bot"]
    assert folder.run("dns", "apply").returncode == 0
    assert "_acme-challenge.wopr.bot" in [record["name"] for record in folder.zone.records()]
    assert folder.agent("challenge", "--remove", **proof).returncode == 0
    assert "_acme-challenge.wopr.bot" not in [record["name"] for record in folder.zone.records()]


def test_certbots_own_plugin_finds_cloudflare_in_the_stand_in(folder: Folder, tmp_path: Path) -> None:
    token = tmp_path / "cloudflare.ini"
    token.write_text(f"dns_cloudflare_api_token = {TOKEN}\n")
    token.chmod(0o600)
    code = "import sys; from certbot.main import main; sys.exit(main())"
    where = [word for name in ("config", "work", "logs") for word in (f"--{name}-dir", str(tmp_path / "certbot"))]
    command = [sys.executable, "-c", code, "certonly", "--non-interactive", "--agree-tos", "-m", "ops@wopr.bot", *where]
    command += ["--server", folder.authority.directory, "-d", "wopr.bot", "-d", "*.wopr.bot", "--dns-cloudflare"]
    command += ["--dns-cloudflare-credentials", str(token), "--dns-cloudflare-propagation-seconds", "0"]
    around = {"CLOUDFLARE_BASE_URL": f"{folder.zone.url}/client/v4"}
    around |= {"REQUESTS_CA_BUNDLE": str(folder.authority.bundle)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **around})
    assert done.returncode == 0, done.stdout + done.stderr
    chain = x509.load_pem_x509_certificates((tmp_path / "certbot/live/wopr.bot/fullchain.pem").read_bytes())
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"wopr.bot", "*.wopr.bot"}
    assert folder.zone.records() == []
