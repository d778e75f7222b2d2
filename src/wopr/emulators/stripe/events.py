"""The events of the account, and the webhook endpoints that want to hear of them."""

import hashlib
import hmac
import secrets

from wopr.emulators.documents import Document, Query
from wopr.emulators.stripe.calls import PAGE, Call, Endpoint, listing, page, retrieve
from wopr.emulators.stripe.errors import invalid
from wopr.emulators.stripe.settings import API_VERSION
from wopr.emulators.stripe.wire import BOOLEAN, METADATA, TEXT, URL, list_of, needed
from wopr.emulators.stripe.world import World

_TYPES_MAX = 20
COMMAND_LINE_ENDPOINT = "we_command_line"


def configure_endpoint(world: World) -> None:
    """Keep the endpoint that the command line names: created, moved, or switched off with the options."""
    url, secret = world.settings.webhook_url, world.settings.webhook_secret
    known = world.documents.get(COMMAND_LINE_ENDPOINT)
    if url is None:
        if known is not None:
            world.save(known | {"status": "disabled"})
        return
    endpoint = known or _new_endpoint(world, ["*"], url) | {
        "id": COMMAND_LINE_ENDPOINT,
        "description": "from the command line",
    }
    world.save(endpoint | {"url": url, "status": "enabled", "_secret": secret or endpoint["_secret"]})


def signature(secret: str, payload: bytes, moment: int) -> str:
    """The `Stripe-Signature` header: HMAC-SHA256 of `moment.payload`, keyed with the whole secret, prefix included."""
    mac = hmac.new(secret.encode(), f"{moment}.".encode() + payload, hashlib.sha256)
    return f"t={moment},v1={mac.hexdigest()}"


def _new_endpoint(world: World, enabled: list[str], url: str) -> Document:
    endpoint = world.new("webhook_endpoint", "we_1", api_version=API_VERSION, enabled_events=enabled, url=url)
    return endpoint | {"_secret": f"whsec_{secrets.token_urlsafe(24)}"}


def _create(world: World, call: Call) -> Document:
    endpoint = _new_endpoint(world, call.params["enabled_events"], call.params["url"])
    endpoint |= {"description": call.get("description"), "metadata": call.get("metadata", {})}
    world.save(endpoint)
    return endpoint | {"secret": endpoint["_secret"]}  # shown this once


def _update(world: World, call: Call) -> Document:
    endpoint = world.load("webhook_endpoint", call.id)
    changes = {
        name: call.get(name)
        for name in ("url", "enabled_events", "description", "metadata")
        if call.get(name) is not None
    }
    if call.get("disabled") is not None:
        changes["status"] = "disabled" if call.get("disabled") else "enabled"
    return world.save(endpoint | changes)


def _delete(world: World, call: Call) -> Document:
    world.load("webhook_endpoint", call.id)
    world.documents.remove(call.id)
    return {"id": call.id, "object": "webhook_endpoint", "deleted": True}


def _list_events(world: World, call: Call) -> Document:
    types = call.get("types", [])
    if len(types) > _TYPES_MAX:
        raise invalid(f"You may filter by {_TYPES_MAX} types at most.", "types")
    if types and call.get("type"):
        raise invalid("You may only specify one of these parameters: type, types.", "types")
    wanted = types or ([call.get("type")] if call.get("type") else [])
    return page(world, call, Query("event", among={"type": wanted} if wanted else {}), "/v1/events")


_ENDPOINT = {"url": URL, "enabled_events": list_of(TEXT), "description": TEXT, "metadata": METADATA}
ENDPOINTS = (
    Endpoint("GET", "/v1/events", _list_events, {**PAGE, "type": TEXT, "types": list_of(TEXT)}),
    Endpoint("GET", "/v1/events/{id}", retrieve("event")),
    Endpoint(
        "POST",
        "/v1/webhook_endpoints",
        _create,
        {**_ENDPOINT, "url": needed(URL), "enabled_events": needed(list_of(TEXT)), "api_version": TEXT},
    ),
    Endpoint("GET", "/v1/webhook_endpoints", listing("webhook_endpoint", "/v1/webhook_endpoints"), PAGE),
    Endpoint("GET", "/v1/webhook_endpoints/{id}", retrieve("webhook_endpoint")),
    Endpoint("POST", "/v1/webhook_endpoints/{id}", _update, {**_ENDPOINT, "disabled": BOOLEAN}),
    Endpoint("DELETE", "/v1/webhook_endpoints/{id}", _delete),
)
