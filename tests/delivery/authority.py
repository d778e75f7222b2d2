"""A certificate authority that speaks ACME (pebble), the stand-in for Cloudflare whose DNS it asks, a user of both."""

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.live import missing
from tests.mortal import mortal
from tests.serving import served

from wopr.cloud import certificate as certificates
from wopr.core.postgres import free_port
from wopr.delivery.place import Place
from wopr.emulators.cloudflare import CloudflareSettings, NameServer, build_cloudflare

TOKEN = "t" * 40
UP_SECONDS = 60.0


@dataclass(frozen=True)
class Made:
    """A certificate of the tests' own, with its key, both in PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Authority:
    """`bundle` is a file with the roots of the directory and of what is signed. `log` is what pebble wrote."""

    directory: str
    bundle: Path
    log: Path


@dataclass(frozen=True)
class Zone:
    """The stand-in for Cloudflare with one zone, wopr.bot."""

    url: str
    server: str

    def records(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = httpx.get(f"{self.url}/_emulator/records").json()["wopr.bot"]
        return found


@dataclass
class Folder:
    """An installation's folder whose certificate is fetched by DNS-01."""

    path: Path
    zone: Zone
    authority: Authority

    @property
    def place(self) -> Place:
        return Place(str(self.path))

    def set(self, **settings: str) -> None:
        with (self.path / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())

    def agent(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """What the container of certificates runs."""
        return self._run("wopr.delivery.certificate_agent", *words, **environment)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What the operator runs."""
        return self._run("wopr", *words)

    def _run(self, module: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        own = ("CLOUDFLARE", "DNS_", "ACME_", "CERTBOT_", "WOPR_")
        around = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        command = [sys.executable, "-m", module, *words, "--dir", str(self.path)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=300,
            env={**around, "WOPR_HOME": str(self.path), **environment},
            stdin=subprocess.DEVNULL,
        )

    def certificate(self) -> certificates.Certificate:
        return certificates.read(Path(self.place.served).read_bytes())


def self_signed(names: list[str], until: datetime, since: datetime | None = None) -> Made:
    """A certificate that nobody else signed, valid until then."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    kinds = [x509.IPAddress(ip_address(n)) if n[0].isdigit() else x509.DNSName(n) for n in names]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(since or until - timedelta(days=90))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName(kinds), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Made(made.public_bytes(serialization.Encoding.PEM), key.private_bytes(*form))


@contextmanager
def zone(folder: Path, host: str = "127.0.0.1") -> Iterator[Zone]:
    """Cloudflare with a name server."""
    server = NameServer(host, 0)
    settings = CloudflareSettings(folder / "dns.sqlite3", api_token=TOKEN)
    with served(build_cloudflare(settings, server), host) as url:
        yield Zone(url, f"{host}:{server.port}")


@contextmanager
def authority(folder: Path, dns: str, host: str = "127.0.0.1") -> Iterator[Authority]:
    """pebble, which asks the name server `dns`."""
    program = shutil.which("pebble") or missing("pebble")
    folder.mkdir(parents=True, exist_ok=True)
    own = self_signed([host], datetime.now(UTC) + timedelta(days=1))
    (folder / "cert.pem").write_bytes(own.certificate)
    (folder / "key.pem").write_bytes(own.key)
    port, management = free_port(), free_port()
    config = {
        "listenAddress": f"{host}:{port}",
        "managementListenAddress": f"{host}:{management}",
        "certificate": str(folder / "cert.pem"),
        "privateKey": str(folder / "key.pem"),
        "httpPort": free_port(),
        "tlsPort": free_port(),
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
    command = [program, "-config", str(folder / "pebble.json"), "-dnsserver", dns]
    # By default it refuses 5 % of good nonces; certbot asks again once, so one request of 400 would fail.
    environment = os.environ | {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    with (
        (folder / "pebble.log").open("wb") as log,
        subprocess.Popen(mortal(command), stdout=log, stderr=log, env=environment) as one,
    ):
        try:
            roots = _roots(f"https://{host}:{management}/roots/0", folder / "cert.pem")
            (folder / "bundle.pem").write_bytes(own.certificate + roots)
            yield Authority(f"https://{host}:{port}/dir", folder / "bundle.pem", folder / "pebble.log")
        finally:
            one.kill()


def _roots(url: str, trusted: Path) -> bytes:
    """What pebble signs with, which it makes anew at each start."""
    context = ssl.create_default_context(cafile=str(trusted))
    deadline = time.monotonic() + UP_SECONDS
    while True:
        try:
            return httpx.get(url, verify=context).raise_for_status().content
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
