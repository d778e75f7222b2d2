"""Refusals as Cloudflare writes them: a code, a message, and for a body the chain of what is wrong with it.

Source: Cloudflare's API reference and its list of DNS record errors
(https://developers.cloudflare.com/dns/troubleshooting/).
"""

from collections.abc import Sequence
from typing import Any

Fault = tuple[int, str]


class CloudflareError(Exception):
    """A request that Cloudflare would refuse. `chain` holds the causes of a general error."""

    def __init__(self, status: int, code: int, message: str, chain: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.chain = chain

    def body(self) -> dict[str, Any]:  # JSON as Cloudflare defines it
        error: dict[str, Any] = {"code": self.code, "message": str(self)}
        if self.chain:
            error["error_chain"] = [{"code": code, "message": message} for code, message in self.chain]
        return {"success": False, "errors": [error], "messages": [], "result": None}


def invalid_record(chain: Sequence[Fault]) -> CloudflareError:
    """A record with something wrong in it."""
    return CloudflareError(400, 1004, "DNS Validation Error", chain)


def identical() -> CloudflareError:
    return CloudflareError(400, 81058, "An identical record already exists.")


def host_taken(record_type: str) -> CloudflareError:
    """A CNAME stands alone at its name."""
    if record_type == "CNAME":
        return CloudflareError(400, 81053, "An A, AAAA, or CNAME record with that host already exists.")
    return CloudflareError(400, 81054, "A CNAME record with that host already exists.")


def no_record() -> CloudflareError:
    return CloudflareError(404, 81044, "Record does not exist.")


def no_zone(zone_id: str) -> CloudflareError:
    text = f"Could not route to /client/v4/zones/{zone_id}/dns_records, perhaps your object identifier is invalid?"
    return CloudflareError(404, 7003, text)


def not_permitted() -> CloudflareError:
    """A token that is good, but not for this."""
    return CloudflareError(403, 10000, "Authentication error")
