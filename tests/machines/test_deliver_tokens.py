"""A registry that wants bearer tokens, as ghcr.io does: Debian's registry with a token server of the specification.

https://distribution.github.io/distribution/spec/auth/token/ and .../jwt/: the server signs, the registry checks with
the certificate. Docker itself logs in and pushes through it, so what our client speaks to is the real thing.
"""

import base64
import json
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID
from tests.live import missing
from tests.machines import registry as registries
from tests.machines.engine import Engine
from tests.machines.registry import Registry

from wopr.core.errors import NotFound, Unauthenticated
from wopr.core.postgres import free_port
from wopr.delivery.registry import Registry as Client
from wopr.delivery.registry_reference import parse_reference

ISSUER, SERVICE = "wopr-test-tokens", "wopr-test-registry"
LASTS_SECONDS = 8


@dataclass
class TokenServer:
    """Signs tokens for one user and remembers who asked for what."""

    username: str
    password: str
    certificate: bytes
    key: rsa.RSAPrivateKey
    asked: list[str] = field(default_factory=list)

    def token(self, query: dict[str, list[str]]) -> str:
        now = int(time.time())
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":", 2)
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(self.certificate).decode()]}
        claims = {
            "iss": ISSUER, "sub": self.username, "aud": SERVICE, "jti": secrets.token_hex(8),
            "iat": now, "nbf": now - 10, "exp": now + LASTS_SECONDS, "access": access,
        }  # fmt: skip
        signed = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims).encode())}"
        return f"{signed}.{_encoded(self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@contextmanager
def listening(server: TokenServer) -> Iterator[int]:
    wanted = "Basic " + base64.b64encode(f"{server.username}:{server.password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            good = self.headers.get("authorization") == wanted
            server.asked.append(" ".join(query.get("scope", ["login"])))
            body: dict[str, Any] = {"details": "no"}
            if good:
                body = {"token": server.token(query), "expires_in": LASTS_SECONDS}
            data = json.dumps(body).encode()
            self.send_response(200 if good else 401)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments: object) -> None:
            return None

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield http.server_address[1]
    finally:
        http.shutdown()
        http.server_close()
        thread.join(10)


def signer(username: str, password: str) -> TokenServer:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return TokenServer(username, password, certificate.public_bytes(serialization.Encoding.DER), key)


@pytest.fixture
def tokens(engine: Engine) -> Iterator[tuple[Registry, TokenServer]]:
    """The registry and its token server."""
    for program in registries.PROGRAMS:
        if shutil.which(program) is None:
            missing(program)
    folder = Path(tempfile.mkdtemp(prefix="wopr-registry-"))
    made = signer("robot", secrets.token_urlsafe(16))
    der = base64.encodebytes(made.certificate).decode()
    (folder / "root.pem").write_text(f"-----BEGIN CERTIFICATE-----\n{der}-----END CERTIFICATE-----\n")
    with listening(made) as port:
        server = f"127.0.0.1:{free_port()}"
        auth = {
            "realm": f"http://127.0.0.1:{port}/token",
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": str(folder / "root.pem"),
        }
        configuration = registries._configuration(folder, server, "") | {"auth": {"token": auth}}
        (folder / "config.yml").write_text(json.dumps(configuration))
        command = ("docker-registry", "serve", str(folder / "config.yml"))
        process = registries._serve(command, server)
        registry = Registry(engine, server, made.username, made.password, process, command)
        try:
            yield registry, made
        finally:
            registry.stop()
            shutil.rmtree(folder, ignore_errors=True)


async def test_a_tag_behind_tokens_is_read_with_one_token_for_many_looks_and_a_new_one_after_its_end(
    engine: Engine, tokens: tuple[Registry, TokenServer]
) -> None:
    registry, server = tokens
    dockerfile = f"FROM scratch\nLABEL {engine.label} org.opencontainers.image.revision=abc123\n"
    local = engine.docker("build", "-q", "-", input=dockerfile).stdout.strip()
    pushed = registry.push(local, "team/wopr-platform:latest")
    image = parse_reference(f"{registry.server}/team/wopr-platform:latest")
    server.asked.clear()
    moment = {"now": 0.0}
    client = Client(registry.server, registry.username, registry.password, monotonic=lambda: moment["now"])
    try:
        for _ in range(5):
            assert image.pinned(await client.digest(image)) == pushed
        assert server.asked == ["repository:team/wopr-platform:pull"]
        described = await client.describe(image)
        assert described.labels["org.opencontainers.image.revision"] == "abc123"
        assert described.architecture == "amd64"
        assert len(server.asked) == 1
        moment["now"] += LASTS_SECONDS
        assert image.pinned(await client.digest(image)) == pushed
        assert len(server.asked) == 2
        with pytest.raises(NotFound):
            await client.digest(parse_reference(f"{registry.server}/team/wopr-platform:none"))
    finally:
        await client.close()
        engine.docker("rmi", "-f", local, check=False)


async def test_a_wrong_password_at_the_token_server_names_the_settings(tokens: tuple[Registry, TokenServer]) -> None:
    registry, _server = tokens
    client = Client(registry.server, registry.username, "wrong")
    try:
        with pytest.raises(Unauthenticated) as told:
            await client.digest(parse_reference(f"{registry.server}/team/wopr-platform"))
        assert "REGISTRY_PASSWORD" in told.value.remedy
    finally:
        await client.close()
