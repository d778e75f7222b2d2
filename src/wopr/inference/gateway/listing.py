"""`GET /v1/models`: what can be asked for now."""

import json
from typing import Protocol

from wopr.accounts.keys import KeyRecord
from wopr.core.errors import NotFound
from wopr.inference.gateway.asgi import Scope
from wopr.inference.gateway.catalog import Catalog, UnknownModel
from wopr.inference.gateway.errors import MethodNotAllowed

MODELS_PATH = "/v1/models"
# The API wants a time of creation; ours is the same for all, so that listings can be compared.
CREATED = 1_735_689_600  # 2025-01-01


class Authenticate(Protocol):
    """Checks the key of the request at hand."""

    async def __call__(self, *, writing: bool) -> KeyRecord: ...


async def describe_models(catalog: Catalog, scope: Scope, authenticate: Authenticate) -> bytes:
    """The list, or one model. NotFound for every other path, MethodNotAllowed for anything but GET."""
    path: str = scope["path"].rstrip("/")
    name = path.removeprefix(MODELS_PATH).lstrip("/")
    if path != MODELS_PATH and not path.startswith(f"{MODELS_PATH}/"):
        raise NotFound(f"There is nothing at {scope['method']} {path}.", code="unknown_url")
    if scope["method"] != "GET":
        raise MethodNotAllowed("GET")
    await authenticate(writing=False)
    if name:
        if not catalog.has(name):
            raise UnknownModel(
                f"The model `{name}` does not exist.", remedy="GET /v1/models lists those that there are."
            )
        return json.dumps(_entry(name)).encode()
    names = sorted({model for model, _service in catalog.list()})
    return json.dumps({"object": "list", "data": [_entry(each) for each in names]}).encode()


def _entry(name: str) -> dict[str, str | int]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "wopr"}
