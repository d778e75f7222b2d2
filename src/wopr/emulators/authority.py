"""A certificate authority that speaks ACME: pebble, which asks the stand-in's name server. Here its files are made.

pebble makes the root that it signs with anew at each start, and its directory needs a certificate of its own.
"""

import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID = timedelta(days=30)
# Without it pebble waits up to 15 s before each look at a name.
ENVIRONMENT: Mapping[str, str] = {"PEBBLE_VA_NOSLEEP": "1"}


@dataclass(frozen=True)
class Authority:
    """Where it will listen, and its files. `bundle` will hold the roots of the directory and of what is signed."""

    folder: Path
    host: str
    port: int
    management: int

    @property
    def directory(self) -> str:
        return f"https://{self.host}:{self.port}/dir"

    @property
    def bundle(self) -> Path:
        return self.folder / "roots.pem"

    def command(self, name_server: str) -> tuple[str, ...]:
        """Runs it; `name_server` is the host:port that it asks."""
        return ("pebble", "-config", str(self.folder / "pebble.json"), "-dnsserver", name_server)

    def write(self) -> None:
        """Its certificate and its configuration."""
        self.folder.mkdir(parents=True, exist_ok=True)
        certificate, key = _self_signed(self.host)
        (self.folder / "directory.pem").write_bytes(certificate)
        (self.folder / "directory.key").write_bytes(key)
        config = {
            "listenAddress": f"{self.host}:{self.port}",
            "managementListenAddress": f"{self.host}:{self.management}",
            "certificate": str(self.folder / "directory.pem"),
            "privateKey": str(self.folder / "directory.key"),
            # Only DNS-01 is asked of it.
            "httpPort": 5002,
            "tlsPort": 5001,
        }
        (self.folder / "pebble.json").write_text(json.dumps({"pebble": config}))

    def learn_roots(self) -> bool:
        """Write the bundle; False while it does not answer."""
        own = self.folder / "directory.pem"
        context = ssl.create_default_context(cafile=str(own))
        try:
            url = f"https://{self.host}:{self.management}/roots/0"
            signs = httpx.get(url, verify=context, trust_env=False).raise_for_status().content
        except httpx.HTTPError:
            return False
        self.bundle.write_bytes(own.read_bytes() + signs)
        return True


def _self_signed(host: str) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the local cloud")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(*form)
