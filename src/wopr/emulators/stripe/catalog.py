"""Products and prices, and the $5 a month price that exists from the start."""

from decimal import Decimal, InvalidOperation
from typing import Any

from wopr.emulators.documents import Document
from wopr.emulators.stripe.calls import PAGE, Call, Endpoint, listing, retrieve
from wopr.emulators.stripe.errors import invalid, missing_parameter
from wopr.emulators.stripe.settings import DEFAULT_PRODUCT_ID
from wopr.emulators.stripe.wire import (
    BOOLEAN,
    COUNT,
    METADATA,
    NOT_EMULATED,
    TEXT,
    URL,
    Shape,
    choice,
    hash_of,
    list_of,
    needed,
)
from wopr.emulators.stripe.world import World

_INTERVAL = hash_of(
    interval=needed(choice("day", "week", "month", "year")),
    interval_count=Shape("integer", minimum=1),
    usage_type=choice("licensed"),
    trial_period_days=NOT_EMULATED,
    meter=NOT_EMULATED,
)
_PRODUCT_DATA = hash_of(
    id=TEXT,
    name=needed(TEXT),
    description=TEXT,
    images=list_of(URL),
    metadata=METADATA,
    statement_descriptor=TEXT,
    tax_code=TEXT,
)
_TAX_BEHAVIOR = choice("exclusive", "inclusive", "unspecified")
PRICE_DATA = hash_of(
    currency=needed(TEXT),
    product=TEXT,
    product_data=hash_of(name=needed(TEXT), description=TEXT, images=list_of(URL), metadata=METADATA, tax_code=TEXT),
    recurring=_INTERVAL,
    tax_behavior=_TAX_BEHAVIOR,
    unit_amount=COUNT,
    unit_amount_decimal=TEXT,
)
_PRODUCT = {
    "active": BOOLEAN,
    "description": TEXT,
    "images": list_of(URL),
    "metadata": METADATA,
    "statement_descriptor": TEXT,
    "unit_label": TEXT,
    "url": URL,
    "tax_code": TEXT,
    "shippable": BOOLEAN,
}
_PRICE = {"active": BOOLEAN, "lookup_key": TEXT, "metadata": METADATA, "nickname": TEXT, "tax_behavior": _TAX_BEHAVIOR}


def seed(world: World) -> None:
    """The product and the monthly price that the platform's setting names, unless they are there."""
    if world.documents.get(world.settings.default_price_id):
        return
    name = f"{world.settings.business_name} plan"
    if world.documents.get(DEFAULT_PRODUCT_ID) is None:
        text = "Credit for your bots, every month"
        product = world.new("product", "prod", id=DEFAULT_PRODUCT_ID, name=name, description=text)
        world.save(product | {"updated": product["created"], "default_price": world.settings.default_price_id})
    make_price(
        world,
        {"currency": "usd", "unit_amount": world.settings.default_price_cents, "recurring": {"interval": "month"}},
        DEFAULT_PRODUCT_ID,
        price_id=world.settings.default_price_id,
    )


def make_price(world: World, data: dict[str, Any], product_id: str, price_id: str | None = None) -> Document:
    """Store a price; `data` are checked parameters."""
    amount, exact = _amount(data)
    recurring = data.get("recurring")
    fields: Document = {
        "currency": data["currency"].lower(),
        "product": product_id,
        "type": "recurring" if recurring else "one_time",
        "unit_amount": amount,
        "unit_amount_decimal": exact,
    }
    if recurring:
        empty = {"interval_count": 1, "meter": None, "trial_period_days": None, "usage_type": "licensed"}
        fields["recurring"] = empty | {k: v for k, v in recurring.items() if v is not None}
    for name in ("active", "lookup_key", "metadata", "nickname", "tax_behavior"):
        if data.get(name) is not None:
            fields[name] = data[name]
    price = world.new("price", "price_1", **fields)
    return world.save(price | ({"id": price_id} if price_id else {}))


def price_from_data(world: World, data: dict[str, Any], param: str) -> Document:
    """The price described inline in a line item, with its product."""
    if data.get("product_data"):
        product_id = _make_product(world, data["product_data"])["id"]
    elif data.get("product"):
        product_id = world.load("product", data["product"], f"{param}[product]", status=400)["id"]
    else:
        raise missing_parameter(f"{param}[product_data]")
    price = make_price(world, data, product_id)
    return world.save(price | {"active": False})  # as at Stripe, an inline price can't be used again


def _amount(data: dict[str, Any]) -> tuple[int, str]:
    if data.get("unit_amount") is not None:
        return data["unit_amount"], str(data["unit_amount"])
    if data.get("unit_amount_decimal") is None:
        raise missing_parameter("unit_amount")
    try:
        exact = Decimal(data["unit_amount_decimal"])
    except InvalidOperation:
        raise invalid(f"Invalid decimal: {data['unit_amount_decimal']}", "unit_amount_decimal") from None
    if exact != exact.to_integral_value() or exact < 0:
        raise invalid("The stand-in charges whole cents only.", "unit_amount_decimal")
    return int(exact), str(int(exact))


def _make_product(world: World, data: dict[str, Any]) -> Document:
    product = world.new("product", "prod", **{k: v for k, v in data.items() if v is not None})
    product["updated"] = product["created"]
    world.save(product)
    world.emit("product.created", product)
    return product


def _create_product(world: World, call: Call) -> Document:
    wanted = {k: v for k, v in call.params.items() if k not in ("expand", "default_price_data")}
    if wanted.get("id") and world.documents.get(wanted["id"]):
        raise invalid("Product already exists.", "id", "resource_already_exists")
    product = _make_product(world, wanted)
    if call.get("default_price_data"):
        product["default_price"] = make_price(world, call.get("default_price_data"), product["id"])["id"]
    return world.save(product)


def _update_product(world: World, call: Call) -> Document:
    before = world.load("product", call.id)
    product = before | {k: v for k, v in call.params.items() if k not in ("expand", "metadata", "default_price")}
    product["metadata"] = merged_metadata(before["metadata"], call.params.get("metadata"))
    if call.get("default_price"):
        product["default_price"] = world.load("price", call.get("default_price"), "default_price", status=400)["id"]
    product["updated"] = world.now()
    world.emit("product.updated", product, before)
    return world.save(product)


def _create_price(world: World, call: Call) -> Document:
    data = {k: v for k, v in call.params.items() if k != "expand"}
    if data.get("product_data"):
        product_id = _make_product(world, data["product_data"])["id"]
    elif data.get("product"):
        product_id = world.load("product", data["product"], "product", status=400)["id"]
    else:
        raise missing_parameter("product")
    price = make_price(world, data, product_id)
    world.emit("price.created", price)
    return price


def _update_price(world: World, call: Call) -> Document:
    before = world.load("price", call.id)
    price = before | {k: v for k, v in call.params.items() if k not in ("expand", "metadata")}
    price["metadata"] = merged_metadata(before["metadata"], call.params.get("metadata"))
    world.emit("price.updated", price, before)
    return world.save(price)


def merged_metadata(before: dict[str, str], change: dict[str, str] | None) -> dict[str, str]:
    """Metadata as Stripe updates it: given keys are set, empty ones removed, an empty value clears all."""
    if change is None:
        return before
    if not change:
        return {}
    return {key: value for key, value in (before | change).items() if value != ""}


_NEW_PRICE = {
    "currency": needed(TEXT),
    "product": TEXT,
    "product_data": _PRODUCT_DATA,
    "recurring": _INTERVAL,
    "unit_amount": COUNT,
    "unit_amount_decimal": TEXT,
    "billing_scheme": choice("per_unit"),
    "tiers": NOT_EMULATED,
    "tiers_mode": NOT_EMULATED,
    "custom_unit_amount": NOT_EMULATED,
    "transform_quantity": NOT_EMULATED,
    "currency_options": NOT_EMULATED,
    "transfer_lookup_key": NOT_EMULATED,
}
ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/products",
        _create_product,
        {**_PRODUCT, "id": TEXT, "name": needed(TEXT), "default_price_data": PRICE_DATA},
    ),
    Endpoint("GET", "/v1/products", listing("product", "/v1/products", active="active"), {**PAGE, "active": BOOLEAN}),
    Endpoint("GET", "/v1/products/{id}", retrieve("product")),
    Endpoint("POST", "/v1/products/{id}", _update_product, {**_PRODUCT, "name": TEXT, "default_price": TEXT}),
    Endpoint("POST", "/v1/prices", _create_price, {**_PRICE, **_NEW_PRICE}),
    Endpoint(
        "GET",
        "/v1/prices",
        listing("price", "/v1/prices", active="active", product="product", type="type", currency="currency"),
        {**PAGE, "active": BOOLEAN, "product": TEXT, "type": choice("one_time", "recurring"), "currency": TEXT},
    ),
    Endpoint("GET", "/v1/prices/{id}", retrieve("price")),
    Endpoint("POST", "/v1/prices/{id}", _update_price, _PRICE),
)
