"""DigitalOcean's API for machines, as https://docs.digitalocean.com/reference/api/ describes it, over plain httpx.

What may be repeated without harm (GET, PUT, DELETE) is, a few times, after what the answer's Retry-After asks or a
growing pause with jitter. A POST is where certainly nothing was done: the limit of requests, no connection. When its
answer is lost, it ends there, and the error says that it may have been done.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx

from wopr.cloud.again import Pause, patiently, refuse_unready
from wopr.cloud.compute import Account, Action, CloudError, Firewall, Machine, MachineStatus, Order, Size
from wopr.core.money import from_usd
from wopr.core.settings import Settings

ANSWER_SECONDS_MAX = 20.0
CREATE_SECONDS_MAX = 60.0
CONNECT_SECONDS_MAX = 10.0
PAGE_SIZE = 200
PAGES_MAX = 50
MESSAGE_CHARACTERS_MAX = 300
CENTS = 100
EVERYWHERE = ["0.0.0.0/0", "::/0"]
TOKEN_REMEDY = (
    "Make a token with read and write access at https://cloud.digitalocean.com/account/api/tokens: DO_API_TOKEN."  # noqa: S105
)
ACTION_REMEDY = "https://cloud.digitalocean.com/droplets shows the machine, and what may be done to it."
LIMIT_REMEDY = "Destroy a node (`wopr nodes list`), or ask DigitalOcean for a higher limit of droplets."
REPEATABLE = ("GET", "PUT", "DELETE")
TAGS = "/v2/tags"

Json = Mapping[str, Any]  # what DigitalOcean writes


def digitalocean(settings: Settings, http: httpx.AsyncClient) -> "DigitalOcean":
    """The cloud of these settings; NotConfigured when there is no token."""
    token = settings.require("do_api_token", "Renting machines at DigitalOcean")
    return DigitalOcean(http, settings.do_api_base.rstrip("/"), token)


@dataclass(frozen=True)
class DigitalOcean:
    """`Compute` at DigitalOcean. `pause` waits between two attempts."""

    http: httpx.AsyncClient
    base: str
    token: str = field(repr=False)
    pause: Pause = asyncio.sleep

    async def create(self, order: Order) -> Machine:
        body = {
            "name": order.name,
            "region": order.region,
            "size": order.size,
            "image": order.image,
            "user_data": order.user_data,
            "tags": list(order.tags),
            "ssh_keys": list(order.ssh_keys),
            "monitoring": True,
        }
        if order.vpc:
            body["vpc_uuid"] = order.vpc
        answer = await self._send("POST", "/v2/droplets", body)
        return _machine(_content(answer)["droplet"])

    async def get(self, machine_id: str) -> Machine | None:
        answer = await self._send("GET", f"/v2/droplets/{machine_id}", missing_is_fine=True)
        return None if answer.status_code == httpx.codes.NOT_FOUND else _machine(_content(answer)["droplet"])

    async def tagged(self, tag: str) -> Sequence[Machine]:
        # Lists leave machines with a GPU out unless they are asked for, and that can't be combined with a tag.
        listed = await self._pages("/v2/droplets", "droplets", {"tag_name": tag})
        return [machine for machine in _oldest_first([*listed, *await self._with_gpu()]) if tag in machine.tags]

    async def machines(self) -> Sequence[Machine]:
        return _oldest_first([*await self._pages("/v2/droplets", "droplets"), *await self._with_gpu()])

    async def act(self, machine_id: str, action: Action) -> str:
        body: dict[str, object] = {"type": action.value}
        if action is Action.REBUILD:
            droplet = _content(await self._send("GET", f"/v2/droplets/{machine_id}"))["droplet"]
            body["image"] = droplet["image"]["slug"] or droplet["image"]["id"]
        answer = await self._send("POST", f"/v2/droplets/{machine_id}/actions", body)
        return str(_content(answer)["action"]["id"])

    async def acted(self, machine_id: str, action_id: str) -> bool | None:
        answer = await self._send("GET", f"/v2/droplets/{machine_id}/actions/{action_id}")
        status = _content(answer)["action"]["status"]
        return None if status == "in-progress" else status == "completed"

    async def destroy(self, machine_id: str) -> bool:
        answer = await self._send("DELETE", f"/v2/droplets/{machine_id}", missing_is_fine=True)
        return answer.status_code != httpx.codes.NOT_FOUND

    async def sizes(self) -> Sequence[Size]:
        return [_size(size) for size in await self._pages("/v2/sizes", "sizes") if size.get("available", True)]

    async def account(self) -> Account:
        account = _content(await self._send("GET", "/v2/account"))["account"]
        return Account(machines_max=int(account["droplet_limit"]), status=str(account.get("status", "")))

    async def ensure_ssh_key(self, name: str, public_key: str) -> str:
        known = await self._known_key(public_key)
        if known is None:
            try:
                made = await self._send("POST", "/v2/account/keys", {"name": name, "public_key": public_key})
            except CloudError:
                # Somebody else was quicker, or the answer was lost: the key is what counts, not who brought it.
                known = await self._known_key(public_key)
                if known is None:
                    raise
            else:
                known = str(_content(made)["ssh_key"]["id"])
        return known

    async def ensure_firewall(self, firewall: Firewall) -> None:
        # A firewall can only name tags that exist; making one that does is no error.
        await self._send("POST", TAGS, {"name": firewall.tag})
        wanted = _rules(firewall)
        for found in await self._pages("/v2/firewalls", "firewalls"):
            if found["name"] == firewall.name:
                if not _says(found, wanted):
                    await self._send("PUT", f"/v2/firewalls/{found['id']}", wanted)
                return
        await self._send("POST", "/v2/firewalls", wanted)

    async def _with_gpu(self) -> Sequence[Json]:
        return await self._pages("/v2/droplets", "droplets", {"type": "gpus"})

    async def _known_key(self, public_key: str) -> str | None:
        # The comment at the end is not part of the key.
        wanted = public_key.split()[:2]
        keys = await self._pages("/v2/account/keys", "ssh_keys")
        return next((str(key["id"]) for key in keys if str(key["public_key"]).split()[:2] == wanted), None)

    async def _pages(self, path: str, member: str, params: Mapping[str, str] | None = None) -> Sequence[Json]:
        """Every object of a list, over all its pages."""
        found: list[Json] = []
        for page in range(1, PAGES_MAX + 1):
            query = httpx.QueryParams({**(params or {}), "per_page": PAGE_SIZE, "page": page})
            content = _content(await self._send("GET", f"{path}?{query}"))
            found += content[member]
            if not ((content.get("links") or {}).get("pages") or {}).get("next"):
                return found
        raise CloudError(f"DigitalOcean lists more than {PAGES_MAX * PAGE_SIZE} {member}.")

    async def _send(
        self, method: str, path: str, body: Json | None = None, *, missing_is_fine: bool = False
    ) -> httpx.Response:
        """The answer when it is a good one (or a 404 that is fine); CloudError otherwise."""

        async def once() -> httpx.Response:
            return await self._once(method, path, body)

        answer = await patiently(once, self.pause)
        if answer.is_success or (missing_is_fine and answer.status_code == httpx.codes.NOT_FOUND):
            return answer
        raise _refusal(answer)

    async def _once(self, method: str, path: str, body: Json | None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}"}
        changes = method not in REPEATABLE and path != TAGS
        # Without a connection nothing was done; that must be known before the time for the answer ends.
        timeout = httpx.Timeout(CREATE_SECONDS_MAX, connect=CONNECT_SECONDS_MAX)
        try:
            async with asyncio.timeout(CREATE_SECONDS_MAX if changes else ANSWER_SECONDS_MAX):
                answer = await self.http.request(method, self.base + path, json=body, headers=headers, timeout=timeout)
        except (httpx.InvalidURL, UnicodeError) as error:
            remedy = "Correct it, or leave it out for DigitalOcean itself."
            raise CloudError(f"DO_API_BASE is no address: {_word(error)}.", remedy=remedy) from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise CloudError(f"DigitalOcean can't be reached: {_word(error)}.", retry=True) from error
        except (TimeoutError, httpx.HTTPError) as error:
            raise CloudError(f"DigitalOcean did not answer: {_word(error)}.", retry=True, uncertain=changes) from error
        refuse_unready("DigitalOcean", answer, uncertain=changes)
        return answer


def _refusal(answer: httpx.Response) -> CloudError:
    """What an answer from 400 to 499 means for the operator."""
    words = _message(answer)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return CloudError("DigitalOcean does not accept DO_API_TOKEN.", remedy=TOKEN_REMEDY)
    if answer.status_code == httpx.codes.FORBIDDEN:
        return CloudError(f"DO_API_TOKEN may not do this: {words}", remedy=TOKEN_REMEDY)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return CloudError(f"DigitalOcean knows nothing of {answer.request.url.path}.", remedy="Is the machine gone?")
    if "pending event" in words:
        return CloudError(f"The machine is busy: {words}", retry=True)
    if "key identifiers" in words:
        return CloudError(f"DigitalOcean does not know a new SSH key yet: {words}", retry=True)
    if "limit" in words.lower():
        return CloudError(f"DigitalOcean's limit for this account is reached: {words}", remedy=LIMIT_REMEDY)
    is_action = answer.request.url.path.endswith("/actions")
    remedy = ACTION_REMEDY if is_action else "`wopr nodes sizes` lists what can be rented."
    return CloudError(f"DigitalOcean refused ({answer.status_code}): {words}", remedy=remedy)


def _message(answer: httpx.Response) -> str:
    try:
        words = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        words = answer.reason_phrase
    return words[:MESSAGE_CHARACTERS_MAX]


def _content(answer: httpx.Response) -> Json:
    try:
        content = answer.json()
    except ValueError as error:
        uncertain = answer.request.method == "POST"
        raise CloudError("DigitalOcean's answer can't be read.", retry=True, uncertain=uncertain) from error
    return content if isinstance(content, dict) else {}


def _word(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _oldest_first(droplets: Sequence[Json]) -> Sequence[Machine]:
    machines = {machine.id: machine for machine in map(_machine, droplets)}
    return sorted(machines.values(), key=lambda machine: (machine.created_at, machine.id))


def _machine(droplet: Json) -> Machine:
    addresses = {network["type"]: network["ip_address"] for network in (droplet.get("networks") or {}).get("v4", ())}
    return Machine(
        id=str(droplet["id"]),
        name=droplet["name"],
        status=MachineStatus(droplet["status"]),
        region=(droplet.get("region") or {}).get("slug", ""),
        size=droplet.get("size_slug", ""),
        public_ip=addresses.get("public"),
        private_ip=addresses.get("private"),
        tags=tuple(droplet.get("tags") or ()),
        created_at=int(datetime.fromisoformat(droplet["created_at"]).timestamp()),
    )


def _size(size: Json) -> Size:
    gpu = size.get("gpu_info") or {}
    return Size(
        slug=size["slug"],
        description=size.get("description", ""),
        vcpus=int(size["vcpus"]),
        memory_mib=int(size["memory"]),
        disk_gib=int(size["disk"]),
        gpu=f"{gpu.get('count', 1)} × {gpu.get('model', 'GPU')}" if gpu else None,
        monthly_cents=round(float(size["price_monthly"]) * CENTS),
        hourly_nanos=from_usd(str(size["price_hourly"])),
        regions=tuple(size.get("regions") or ()),
        gpu_model=gpu.get("model", ""),
        gpu_count=int(gpu.get("count", 1)) if gpu else 0,
    )


def _rules(firewall: Firewall) -> Json:
    sources, everything = {"addresses": list(firewall.sources)}, {"addresses": EVERYWHERE}
    return {
        "name": firewall.name,
        "tags": [firewall.tag],
        "inbound_rules": [{"protocol": "tcp", "ports": ports, "sources": sources} for ports in firewall.ports],
        "outbound_rules": [
            {"protocol": "tcp", "ports": "all", "destinations": everything},
            {"protocol": "udp", "ports": "all", "destinations": everything},
            {"protocol": "icmp", "destinations": everything},
        ],
    }


def _says(found: Json, wanted: Json) -> bool:
    """Whether a firewall says what is wanted; DigitalOcean writes rules with more fields and in an order of its own."""

    def ways(firewall: Json, rules: str, target: str) -> set[tuple[str, str, frozenset[str]]]:
        return {
            (rule["protocol"], _ports(rule), frozenset((rule.get(target) or {}).get("addresses") or ()))
            for rule in firewall.get(rules) or ()
        }

    same_tags = set(found.get("tags") or ()) == set(wanted["tags"])
    directions = (("inbound_rules", "sources"), ("outbound_rules", "destinations"))
    return same_tags and all(ways(found, *which) == ways(wanted, *which) for which in directions)


def _ports(rule: Json) -> str:
    """DigitalOcean writes `0` for all of them, and for ICMP, which has none."""
    ports = str(rule.get("ports") or "0")
    return "0" if ports == "all" else ports
