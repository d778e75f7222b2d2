"""Sending domains with the DNS records that they need. There is no DNS to look at, so asking to verify verifies."""

import base64
import hashlib
import re
import uuid
from datetime import UTC, datetime

from wopr.emulators.documents import Document, Documents, Query
from wopr.emulators.resend.errors import ResendError, invalid_parameter, missing, not_found

_REGIONS = ("us-east-1", "eu-west-1", "sa-east-1", "ap-northeast-1")
_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")


def is_verified(store: Documents, name: str) -> bool:
    """Whether mail may be sent from this domain or one above it."""
    parts = name.split(".")
    above = [".".join(parts[i:]) for i in range(len(parts) - 1)]
    return any(store.select(Query("domain", {"name": n, "status": "verified"}, limit=1)) for n in above)


def create(store: Documents, body: object) -> Document:
    """A domain that waits for its DNS records."""
    if not isinstance(body, dict) or not body.get("name"):
        raise missing("name")
    name, region = str(body["name"]).lower(), body.get("region", _REGIONS[0])
    if not _NAME.fullmatch(name):
        raise invalid_parameter("The `name` field must be a domain name such as `example.com`.")
    if region not in _REGIONS:
        raise ResendError(422, "invalid_region", f"Region must be one of: {', '.join(_REGIONS)}.")
    if store.select(Query("domain", {"name": name}, limit=1)):
        raise ResendError(403, "validation_error", f"The {name} domain has been registered already.")
    domain: Document = {"object": "domain", "id": str(uuid.uuid4()), "name": name, "status": "not_started"}
    domain |= {"created_at": datetime.now(UTC).isoformat(sep=" "), "region": region}
    return store.put(domain | {"records": _records(name, str(region), "not_started")})


def verify(store: Documents, domain_id: str) -> Document:
    """Mark the domain and its records as verified."""
    domain = find(store, domain_id)
    records = [record | {"status": "verified"} for record in domain["records"]]
    return store.put(domain | {"status": "verified", "records": records})


def find(store: Documents, domain_id: str) -> Document:
    """The domain, or Resend's 404."""
    domain = store.get(domain_id, "domain")
    if domain is None:
        raise not_found("Domain")
    return domain


def seed(store: Documents, names: tuple[str, ...]) -> None:
    """Domains that are verified from the start."""
    for name in names:
        if not store.select(Query("domain", {"name": name}, limit=1)):
            verify(store, create(store, {"name": name})["id"])


def _records(name: str, region: str, status: str) -> list[Document]:
    key = base64.b64encode(hashlib.sha512(name.encode()).digest() * 2).decode()
    common = {"ttl": "Auto", "status": status}
    return [
        {"record": "SPF", "name": "send", "type": "MX", "priority": 10}
        | common
        | {"value": f"feedback-smtp.{region}.amazonses.com"},
        {"record": "SPF", "name": "send", "type": "TXT"} | common | {"value": '"v=spf1 include:amazonses.com ~all"'},
        {"record": "DKIM", "name": "resend._domainkey", "type": "TXT"} | common | {"value": f"p={key}"},
    ]
