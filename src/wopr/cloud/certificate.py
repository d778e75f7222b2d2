"""A certificate as it lies in a file or is shown by a server: its names, its time, its chain."""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from wopr.core.errors import Invalid

# As Let's Encrypt advises, whatever the certificate's lifetime is.
RENEW_WHEN_LEFT = 1 / 3
ANSWER_SECONDS_MAX = 10.0


@dataclass(frozen=True)
class Certificate:
    """What a certificate says. `chained` is whether each one in the file was signed by the next."""

    names: tuple[str, ...]
    issuer: str
    serial: str
    not_before: datetime
    not_after: datetime
    chained: bool

    def covers(self, name: str) -> bool:
        """Whether it holds for a name; a wildcard itself is covered only by the same wildcard."""
        return name in self.names or f"*.{name.partition('.')[2]}" in self.names

    def renew_from(self) -> datetime:
        return self.not_after - (self.not_after - self.not_before) * RENEW_WHEN_LEFT

    def left(self, now: datetime) -> timedelta:
        return self.not_after - now


@dataclass(frozen=True)
class Served:
    """What a server shows. `error` says why a client would not trust it; `certificate` is None when there was none."""

    certificate: Certificate | None
    error: str = ""


def read(pem: bytes) -> Certificate:
    """The first certificate of a file, with its chain behind it; Invalid when there is none."""
    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise Invalid(f"There is no certificate: {error}.") from error
    return _told(chain)


def due(certificate: Certificate | None, names: Sequence[str], now: datetime) -> str:
    """Why a certificate has to be fetched; empty while the one that is there will do."""
    if certificate is None:
        return "there is none"
    if missing := [name for name in names if not certificate.covers(name)]:
        return f"it does not cover {', '.join(missing)}"
    if certificate.not_after <= now:
        return f"it expired on {certificate.not_after:%Y-%m-%d}"
    if certificate.renew_from() <= now:
        return f"it expires on {certificate.not_after:%Y-%m-%d}"
    return ""


def fits(pem: bytes, key_pem: bytes) -> bool:
    """Whether a key is the one of the certificate."""
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certificate = x509.load_pem_x509_certificate(pem)
    key = load_pem_private_key(key_pem, None)
    return certificate.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)


async def served(name: str, host: str, port: int, roots: str | None = None) -> Served:
    """What the server at an address shows for a name, as a client that trusts `roots` (or what everybody trusts)."""
    context = ssl.create_default_context(cafile=roots)
    try:
        return Served(await _shown(name, host, port, context))
    except ssl.SSLCertVerificationError as error:
        loose = ssl.create_default_context()
        loose.check_hostname = False
        loose.verify_mode = ssl.CERT_NONE
        with contextlib.suppress(OSError):
            return Served(await _shown(name, host, port, loose), error.verify_message)
        return Served(None, error.verify_message)
    except TimeoutError:
        return Served(None, f"no answer within {ANSWER_SECONDS_MAX:.0f} s")
    except OSError as error:
        return Served(None, error.strerror or str(error))


async def _shown(name: str, host: str, port: int, context: ssl.SSLContext) -> Certificate:
    async with asyncio.timeout(ANSWER_SECONDS_MAX):
        _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    try:
        shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
        raw = shown.getpeercert(binary_form=True)
    finally:
        writer.close()
    assert raw is not None, "a server always shows one"
    return _told([x509.load_der_x509_certificate(raw)])


def _told(chain: Sequence[x509.Certificate]) -> Certificate:
    first = chain[0]
    try:
        alternative = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(alternative.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = ()
    issuer = first.issuer.rfc4514_string() or "nobody"
    return Certificate(
        names=names,
        issuer=issuer,
        serial=f"{first.serial_number:x}",
        not_before=first.not_valid_before_utc.astimezone(UTC),
        not_after=first.not_valid_after_utc.astimezone(UTC),
        chained=all(_signed(lower, upper) for lower, upper in pairwise(chain)),
    )


def _signed(lower: x509.Certificate, upper: x509.Certificate) -> bool:
    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
