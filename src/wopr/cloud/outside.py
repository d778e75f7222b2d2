"""HTTP to our own names as customers meet them: found by chosen name servers, trusted by chosen roots.

Without either it is the machine's own resolver and what everybody trusts. With them a domain can be tried whose names
this machine does not know yet, or never will, as in the local cloud.
"""

import ssl
from collections.abc import Sequence
from pathlib import Path

import httpx

from wopr.cloud.lookup import Server, ask


class ByNameServer(httpx.AsyncHTTPTransport):
    """Connects to the address that the first of `servers` which answers says of a name; other names go on as usual."""

    def __init__(self, servers: Sequence[Server], trusted: ssl.SSLContext) -> None:
        super().__init__(verify=trusted)
        self._servers = servers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        name = request.url.host
        if address := await self._address(name):
            # The name still counts for the certificate, and stands in the Host header already.
            request.extensions = {**request.extensions, "sni_hostname": name}
            request.url = request.url.copy_with(host=address)
        return await super().handle_async_request(request)

    async def _address(self, name: str) -> str:
        if name.replace(".", "").isdigit() or "." not in name:
            return ""
        for server in self._servers:
            if found := (await ask(name, "A", server)).values:
                return found[0]
        return ""


def transport(servers: Sequence[Server], roots: Path | None) -> httpx.AsyncBaseTransport | None:
    """The way to our names; None when nothing is chosen, and httpx's own is the right one."""
    there = roots if roots is not None and roots.exists() else None
    if not servers and there is None:
        return None
    trusted = ssl.create_default_context()
    if there is not None:
        trusted.load_verify_locations(cafile=str(there))
    return ByNameServer(servers, trusted)
