"""Cloudflare's API for DNS, as https://developers.cloudflare.com/api/ describes it, over plain httpx.

Every request may be repeated without harm, since a record that is made twice is refused as identical and then looked
up. So each is, a few times: after what the answer's Retry-After asks, or after a growing pause with jitter.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from wopr.cloud.again import Pause, patiently, refuse_unready
from wopr.cloud.compute import CloudError
from wopr.cloud.dns import DnsRecord, Zone

ANSWER_SECONDS_MAX = 20.0
PAGE_RECORDS = 500
PAGES_MAX = 100
MESSAGE_CHARACTERS_MAX = 300
AUTOMATIC_TTL = 1
# https://developers.cloudflare.com/dns/troubleshooting/ and what the API answers to tokens.
NO_TOKEN = (1000, 6003, 6111, 9106, 9109)
NOT_PERMITTED = (10000, 9103)
IDENTICAL = (81057, 81058)
CLASH = (81053, 81054)
TOKEN_REMEDY = (
    "Make a token with Zone:Read and DNS:Edit on the domain at https://dash.cloudflare.com/profile/api-tokens,"  # noqa: S105
    " and set CLOUDFLARE_API_TOKEN."
)

Json = Mapping[str, Any]  # what Cloudflare writes


class CloudflareRefused(CloudError):
    """Cloudflare understood and said no; `codes` are its own numbers for why."""

    def __init__(self, message: str, codes: frozenset[int], *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.codes = codes


@dataclass(frozen=True)
class Cloudflare:
    """`Dns` at Cloudflare. `base` is the API's address with its version; `pause` waits between two attempts."""

    http: httpx.AsyncClient
    base: str
    token: str = field(repr=False)
    pause: Pause = asyncio.sleep

    async def zone_of(self, name: str) -> Zone:
        parts = name.removeprefix("*.").split(".")
        for start in range(len(parts) - 1):
            wanted = ".".join(parts[start:])
            for zone in (await self._send("GET", "/zones", params={"name": wanted}))["result"]:
                return Zone(zone["id"], zone["name"], tuple(zone["name_servers"]))
        raise CloudError(
            f"CLOUDFLARE_API_TOKEN reaches no zone of Cloudflare with {name} in it.",
            remedy="Add the domain to the account, or give the token Zone:Read and DNS:Edit on it.",
        )

    async def records(self, zone: Zone, *, name: str = "", type: str = "") -> Sequence[DnsRecord]:
        wanted = {key: value for key, value in (("name", name), ("type", type)) if value}
        found: list[DnsRecord] = []
        for page in range(1, PAGES_MAX + 1):
            params = {**wanted, "page": str(page), "per_page": str(PAGE_RECORDS)}
            answer = await self._send("GET", f"/zones/{zone.id}/dns_records", params=params)
            found += [_record(one) for one in answer["result"]]
            if page >= int(answer["result_info"]["total_pages"]):
                return found
        raise CloudError(f"Cloudflare lists more than {PAGES_MAX * PAGE_RECORDS} records of {zone.name}.")

    async def create(self, zone: Zone, record: DnsRecord) -> DnsRecord:
        try:
            made = await self._send("POST", f"/zones/{zone.id}/dns_records", body=_body(record))
        except CloudflareRefused as refused:
            if not refused.codes.intersection(IDENTICAL):
                raise
            # Made by an earlier attempt whose answer was lost, or by somebody else: it is there.
            same = await self.records(zone, name=record.name, type=record.type)
            found = next((one for one in same if one.content == record.content), None)
            if found is None:
                raise
            return found
        return _record(made["result"])

    async def change(self, zone: Zone, record: DnsRecord) -> DnsRecord:
        changed = await self._send("PUT", f"/zones/{zone.id}/dns_records/{record.id}", body=_body(record))
        return _record(changed["result"])

    async def delete(self, zone: Zone, record: DnsRecord) -> bool:
        answer = await self._send("DELETE", f"/zones/{zone.id}/dns_records/{record.id}", missing_is_fine=True)
        return bool(answer["success"])

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Json | None = None,
        missing_is_fine: bool = False,
    ) -> Json:
        """The content of a good answer, or of a 404 that is fine; CloudError otherwise."""

        async def once() -> httpx.Response:
            return await self._once(httpx.Request(method, self.base + path, params=params, json=body))

        answer = await patiently(once, self.pause)
        content = _content(answer)
        if content.get("success") or (missing_is_fine and answer.status_code == httpx.codes.NOT_FOUND):
            return content
        raise _refusal(answer, content)

    async def _once(self, request: httpx.Request) -> httpx.Response:
        request.headers["authorization"] = f"Bearer {self.token}"
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                answer = await self.http.send(request)
        except (TimeoutError, httpx.TransportError) as error:
            word = str(error) or type(error).__name__
            raise CloudError(f"Cloudflare can't be reached at {request.url.host}: {word}.", retry=True) from error
        refuse_unready("Cloudflare", answer)
        return answer


def _content(answer: httpx.Response) -> Json:
    try:
        content = answer.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        where = f"{answer.request.url.host} answered {answer.status_code}"
        raise CloudError(f"{where} with what is no answer of Cloudflare's API.", remedy="Is CLOUDFLARE_API_BASE right?")
    return content


def _refusal(answer: httpx.Response, content: Json) -> CloudflareRefused:
    """What Cloudflare's refusal means for the operator."""
    errors = content.get("errors") or [{}]
    every = [one for error in errors for one in (error, *(error.get("error_chain") or ()))]
    codes = frozenset(int(error["code"]) for error in every if "code" in error)
    words = "; ".join(f"{error.get('message', '')} ({error.get('code', '')})" for error in every)
    said = (words if codes else answer.reason_phrase)[:MESSAGE_CHARACTERS_MAX]
    if codes.intersection(NO_TOKEN) or answer.status_code == httpx.codes.UNAUTHORIZED:
        return CloudflareRefused(
            f"Cloudflare does not accept CLOUDFLARE_API_TOKEN: {said}.", codes, remedy=TOKEN_REMEDY
        )
    if codes.intersection(NOT_PERMITTED) or answer.status_code == httpx.codes.FORBIDDEN:
        return CloudflareRefused(f"CLOUDFLARE_API_TOKEN may not do this: {said}.", codes, remedy=TOKEN_REMEDY)
    if codes.intersection(CLASH):
        remedy = "wopr dns list  shows what stands at that name"
        return CloudflareRefused(f"Another record is in the way: {said}.", codes, remedy=remedy)
    return CloudflareRefused(f"Cloudflare refused ({answer.status_code}): {said}.", codes)


def _record(found: Json) -> DnsRecord:
    return DnsRecord(
        name=found["name"],
        type=found["type"],
        content=found["content"],
        ttl_seconds=None if found["ttl"] == AUTOMATIC_TTL else int(found["ttl"]),
        proxied=bool(found.get("proxied")),
        comment=found.get("comment") or "",
        id=found["id"],
    )


def _body(record: DnsRecord) -> Json:
    body: dict[str, object] = {"type": record.type, "name": record.name, "content": record.content}
    body |= {"ttl": record.ttl_seconds or AUTOMATIC_TTL, "proxied": record.proxied, "comment": record.comment}
    return body
