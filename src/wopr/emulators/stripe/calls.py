"""What an endpoint of the API is: route, parameters and the function that answers; pages of lists, expansion."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wopr.emulators.documents import Document, Query
from wopr.emulators.stripe.errors import StripeError, invalid
from wopr.emulators.stripe.wire import RANGE, TEXT, Shape, list_of
from wopr.emulators.stripe.world import World, public

_PAGE_MAX = 100
_EXPANSIONS_MAX = 20
PAGE = {"limit": Shape("integer"), "starting_after": TEXT, "ending_before": TEXT, "created": RANGE}
_EXPAND = list_of(TEXT)


@dataclass(frozen=True)
class Call:
    """One request: the ids in its path and its checked parameters."""

    path: Mapping[str, str]
    params: Mapping[str, Any]  # values of the shapes that the endpoint declares

    @property
    def id(self) -> str:
        """The id in the path."""
        return self.path["id"]

    def get(self, name: str, default: Any = None) -> Any:  # as `params`
        """A parameter, or the default where it was not given or cleared."""
        value = self.params.get(name)
        return default if value is None else value


@dataclass(frozen=True)
class Endpoint:
    """A method and path of the API with what it accepts and what it does."""

    method: str
    path: str
    run: Callable[[World, Call], Document]
    fields: Mapping[str, Shape] = field(default_factory=dict)

    @property
    def accepts(self) -> Mapping[str, Shape]:
        """All parameters, `expand` included, which every endpoint has."""
        return {**self.fields, "expand": _EXPAND}


def retrieve(kind: str) -> Callable[[World, Call], Document]:
    """An answer that is the object named in the path."""

    def run(world: World, call: Call) -> Document:
        return world.load(kind, call.id)

    return run


def listing(kind: str, url: str, **filters: str) -> Callable[[World, Call], Document]:
    """An answer that is a page of objects; `filters` says which field each parameter compares."""

    def run(world: World, call: Call) -> Document:
        where = {field: call.params[name] for name, field in filters.items() if call.get(name) is not None}
        return page(world, call, Query(kind, where), url)

    return run


def page(world: World, call: Call, query: Query, url: str) -> Document:
    """Stripe's list object: newest first, cut to `limit`, from a cursor on."""
    limit = call.get("limit", 10)
    if not 1 <= limit <= _PAGE_MAX:
        raise invalid(f"Invalid limit: must be between 1 and {_PAGE_MAX}.", "limit", "parameter_invalid_integer")
    for name in ("starting_after", "ending_before"):
        if call.get(name):
            world.load(query.kind, call.get(name), name, status=400)
    created = call.get("created", {})
    bounded = Query(
        query.kind,
        query.where,
        query.among,
        query.at_most,
        created_from=created["gt"] + 1 if created.get("gt") is not None else created.get("gte"),
        created_to=created["lt"] - 1 if created.get("lt") is not None else created.get("lte"),
        older_than=call.get("starting_after"),
        newer_than=call.get("ending_before"),
        limit=limit + 1,
    )
    found = world.documents.select(bounded)
    chosen = found[:limit]
    if bounded.newer_than is not None:
        chosen.reverse()
    return {"object": "list", "url": url, "has_more": len(found) > limit, "data": chosen}


def listed(data: list[Document], url: str) -> Document:
    """A complete list object inside another object."""
    return {"object": "list", "data": data, "has_more": False, "total_count": len(data), "url": url}


def rendered(world: World, document: Document, expand: list[str] | None) -> Document:
    """The answer as the client sees it, with the ids in `expand` replaced by their objects."""
    if expand and len(expand) > _EXPANSIONS_MAX:
        raise invalid(f"You cannot expand more than {_EXPANSIONS_MAX} properties in a single request.", "expand")
    result = public(document)
    if result.get("object") == "list":
        result["data"] = [public(item) for item in document["data"]]
    for path in expand or []:
        _expand(world, result, path.split("."), path)
    return result


def _expand(world: World, target: Document, parts: list[str], path: str) -> None:
    name, rest = parts[0], parts[1:]
    if name not in target:
        target[name] = _included(world, target, name, path)
    value = target[name]
    if isinstance(value, str):
        found = world.documents.get(value)
        if found is None:
            raise _not_expandable(path)
        value = target[name] = public(found)
    for item in value if isinstance(value, list) else [value]:
        if rest and isinstance(item, dict):
            _expand(world, item, rest, path)


def _included(world: World, target: Document, name: str, path: str) -> Document:
    """Lists that Stripe leaves out of an object unless they are asked for."""
    owner = target.get("id", "")
    if target.get("object") == "checkout.session" and name == "line_items":
        stored = world.load("checkout.session", owner)
        return listed(stored["_line_items"], f"/v1/checkout/sessions/{owner}/line_items")
    children = {
        ("invoice", "payments"): ("invoice_payment", "invoice", "/v1/invoice_payments"),
        ("charge", "refunds"): ("refund", "charge", f"/v1/charges/{owner}/refunds"),
        ("customer", "subscriptions"): ("subscription", "customer", f"/v1/customers/{owner}/subscriptions"),
    }
    kind = children.get((target.get("object", ""), name))
    if kind is None:
        raise _not_expandable(path)
    found = world.documents.select(Query(kind[0], {kind[1]: owner}))
    return listed([public(item) for item in found], kind[2])


def _not_expandable(path: str) -> StripeError:
    message = f"This property cannot be expanded ({path})."
    return invalid(f"{message} You may want to try expanding another property of the object.", "expand")
