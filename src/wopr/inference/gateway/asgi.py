"""The server's side of a request: types, reading a bounded body, and answering in one piece or in many."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from wopr.core.errors import TooLarge

# ASGI messages are dictionaries of mixed values, as the specification defines them.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON_TYPE: Header = (b"content-type", b"application/json")


class ClientLeft(Exception):
    """The client closed the connection: nobody is there to be answered."""


async def read_body(declared: bytes | None, receive: Receive, bytes_max: int) -> bytes:
    """The whole request body. `declared` is its Content-Length header.

    Raises TooLarge beyond the limit, and ClientLeft when the client gives up.
    """
    if declared is not None and declared.isdigit() and int(declared) > bytes_max:
        raise _too_large(bytes_max)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body
    parts, size = [body], len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > bytes_max:
            raise _too_large(bytes_max)
    return b"".join(parts)


async def respond(send: Send, status: int, headers: list[Header], body: bytes) -> None:
    """Send an answer whose length is known."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(
        f"The request body is larger than {bytes_max} bytes.", remedy="Send less at once, or split it into several."
    )
