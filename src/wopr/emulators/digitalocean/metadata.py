"""The metadata service: each machine asks 169.254.169.254 and is told what it is, by the address that it asks from."""

import json

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from wopr.emulators.digitalocean.boxes import NAME_SERVERS, mac
from wopr.emulators.digitalocean.world import World
from wopr.emulators.documents import Document


def build_metadata(world: World) -> FastAPI:
    """The application; it answers machines only."""
    app = FastAPI(title="Metadata", openapi_url=None, docs_url=None, redoc_url=None)
    roots = world.settings.trusted_roots

    @app.get("/metadata/v1.json")
    async def whole(request: Request) -> Response:
        droplet = _asking(world, request)
        return JSONResponse(described(droplet, roots)) if droplet else _nobody()

    @app.get("/metadata/v1/{name:path}")
    async def part(request: Request, name: str) -> Response:
        droplet = _asking(world, request)
        if droplet is None:
            return _nobody()
        known: object = described(droplet, roots)
        for step in name.strip("/").split("/"):
            known = _step(known, "droplet_id" if step == "id" else step.replace("-", "_"))
        if known is None or isinstance(known, dict):
            return PlainTextResponse("\n".join(known) if known else "not found", 200 if known else 404)
        return PlainTextResponse("\n".join(known) if isinstance(known, list) else str(known))

    return app


def described(droplet: Document, trusted_roots: str = "") -> Document:
    """What a machine is told of itself. cloud-init gives up when any of these is missing."""
    interfaces = {
        network["type"]: [
            {
                "ipv4": {name: network[name] for name in ("ip_address", "netmask", "gateway")},
                "mac": mac(network["ip_address"]),
                "type": network["type"],
            }
        ]
        for network in droplet["networks"]
    }
    return {
        "droplet_id": int(droplet["id"]),
        "hostname": droplet["name"],
        "user_data": droplet["user_data"],
        "vendor_data": _vendor_data(trusted_roots),
        "public_keys": droplet["keys"],
        "region": droplet["region"],
        "interfaces": interfaces,
        "floating_ip": {"ipv4": {"active": False}},
        "dns": {"nameservers": list(NAME_SERVERS)},
        "tags": droplet["tags"],
    }


def _vendor_data(trusted_roots: str) -> str:
    """What the cloud itself has cloud-init do, beside the user's wishes."""
    if not trusted_roots:
        return ""
    return f"#cloud-config\n{json.dumps({'ca_certs': {'trusted': [trusted_roots]}})}\n"


def _asking(world: World, request: Request) -> Document | None:
    address = request.client.host if request.client else ""
    for droplet in world.every("droplet"):
        if any(network["ip_address"] == address for network in droplet["networks"] or []):
            return droplet
    return None


def _step(known: object, name: str) -> object:
    if isinstance(known, dict):
        return known.get(name)
    if isinstance(known, list) and name.isdecimal() and int(name) < len(known):
        return known[int(name)]
    return None


def _nobody() -> Response:
    return PlainTextResponse("not found", 404)
