"""Mails: checked as Resend checks them, and kept."""

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from html import unescape
from typing import Any

from wopr.emulators.documents import Document, Documents, Query
from wopr.emulators.resend.domains import is_verified
from wopr.emulators.resend.errors import ResendError, invalid_parameter, malformed_address, missing, unverified
from wopr.emulators.resend.settings import ResendSettings

_RECIPIENTS_MAX = 50
_SUBJECT_LENGTH_MAX = 998  # RFC 5322, section 2.1.1
_KNOWN = {
    "from", "to", "subject", "html", "text", "cc", "bcc", "reply_to", "headers", "attachments", "tags", "scheduled_at",
}  # fmt: skip
_ADDRESS = re.compile(r"[^@\s<>,]+@([A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*)")
_NAMED = re.compile(r"[^<>\r\n]*<\s*([^<>\s]+)\s*>\s*")
_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")
_LINK = re.compile(r"https?://[^\s<>\"')\]]+")


def accept(store: Documents, settings: ResendSettings, body: object) -> Document:
    """Keep a mail; raises ResendError when Resend would refuse it."""
    mail = _checked(body)
    sender = bare_address(mail["from"])
    domain = sender.partition("@")[2].lower()
    if settings.strict and not is_verified(store, domain):
        raise unverified(domain)
    now = datetime.now(UTC)
    kept: Document = {
        "object": "email",
        "id": str(uuid.uuid4()),
        "to": _list(mail["to"]),
        "from": mail["from"],
        "created": int(now.timestamp()),
        "created_at": now.isoformat(sep=" "),
        "subject": mail["subject"],
        "html": mail.get("html"),
        "text": mail.get("text"),
        "bcc": _list(mail.get("bcc")),
        "cc": _list(mail.get("cc")),
        "reply_to": _list(mail.get("reply_to")),
        "last_event": "delivered",
        "scheduled_at": mail.get("scheduled_at"),
        "tags": mail.get("tags") or [],
        "_headers": mail.get("headers") or {},
        "_attachments": [a.get("filename") for a in mail.get("attachments") or []],
    }
    return store.put(kept)


def shown(mail: Document) -> Document:
    """A mail as Resend's API shows it."""
    return {k: v for k, v in mail.items() if not k.startswith("_") and k != "created"}


def links(mail: Document) -> list[str]:
    """The addresses that a mail leads to, in order, each once."""
    found = [unescape(link) for link in _LINK.findall(mail["text"] or "")]
    found += [unescape(link) for link in re.findall(r'href="(https?://[^"]+)"', mail["html"] or "")]
    return list(dict.fromkeys(link.rstrip(".,;") for link in found))


def sent_to(store: Documents, recipient: str | None, limit: int) -> list[Document]:
    """The newest mails, to one address if it is named."""
    found = store.select(Query("email", limit=limit if recipient is None else 10_000))
    if recipient is None:
        return found
    wanted = recipient.lower()
    return [m for m in found if wanted in {bare_address(a).lower() for a in m["to"] + m["cc"] + m["bcc"]}][:limit]


def bare_address(text: str) -> str:
    """The address in `Name <address>`, or the text itself."""
    named = _NAMED.fullmatch(text)
    return named.group(1) if named else text.strip()


def _checked(body: object) -> Mapping[str, Any]:  # JSON that was checked field by field
    if not isinstance(body, dict):
        raise invalid_parameter("The request body must be a JSON object.")
    mail = {("reply_to" if name == "replyTo" else name): value for name, value in body.items()}
    for name in mail:
        if name not in _KNOWN:
            raise invalid_parameter(f"The `{name}` field is not known to the stand-in.")
    for name in ("from", "to", "subject"):
        if mail.get(name) in (None, "", []):
            raise missing(name)
    if not mail.get("html") and not mail.get("text"):
        raise ResendError(422, "missing_required_field", "Missing `html` or `text` field.")
    for name in ("from", "subject", "html", "text", "scheduled_at"):
        if mail.get(name) is not None and not isinstance(mail[name], str):
            raise invalid_parameter(f"The `{name}` field must be a `string`.")
    if len(mail["subject"]) > _SUBJECT_LENGTH_MAX or "\n" in mail["subject"] or "\r" in mail["subject"]:
        raise invalid_parameter("The `subject` field must be a single line of 998 characters at most.")
    _check_address("from", mail["from"])
    for name in ("to", "cc", "bcc", "reply_to"):
        for address in _list(mail.get(name)):
            _check_address(name, address)
    if len(_list(mail["to"])) > _RECIPIENTS_MAX:
        raise invalid_parameter(f"The `to` field must have at most {_RECIPIENTS_MAX} recipients.")
    _check_extras(mail)
    return mail


def _check_extras(mail: Mapping[str, Any]) -> None:
    for tag in mail.get("tags") or []:
        values = (tag.get("name"), tag.get("value")) if isinstance(tag, dict) else (None, None)
        if not all(isinstance(value, str) and _TAG.fullmatch(value) for value in values):
            raise invalid_parameter("Tags should only contain ASCII letters, numbers, underscores, or dashes.")
    for attachment in mail.get("attachments") or []:
        if not isinstance(attachment, dict) or not (attachment.get("content") or attachment.get("path")):
            raise ResendError(422, "invalid_attachment", "Attachment must have either a `content` or `path`.")
    if mail.get("headers") is not None and not isinstance(mail["headers"], dict):
        raise invalid_parameter("The `headers` field must be an `object`.")


def _check_address(field: str, value: object) -> None:
    if not isinstance(value, str) or not _ADDRESS.fullmatch(bare_address(value)):
        raise malformed_address(field)


def _list(value: Any) -> list[Any]:  # one address or several, as the caller sent them
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
