"""The routes under /v2 that the platform uses, as the API's documentation describes them."""

from fastapi import APIRouter, Request

from wopr.emulators.digitalocean import actions, catalog, droplets, firewalls, keys, tags
from wopr.emulators.digitalocean.errors import conflict, invalid, not_found
from wopr.emulators.digitalocean.wire import body_of, page
from wopr.emulators.digitalocean.world import World, shown_vpc
from wopr.emulators.documents import Document


def router(world: World) -> APIRouter:
    """All of them."""
    routes = APIRouter(prefix="/v2", include_in_schema=False)
    for part in (_droplets, _actions, _account, _catalog, _vpcs, _firewalls, _firewall_members, _tags):
        routes.include_router(part(world))
    return routes


def _droplets(world: World) -> APIRouter:
    routes = APIRouter(prefix="/droplets")

    @routes.post("", status_code=202)
    async def create(request: Request) -> Document:
        body = await body_of(request)
        with world.documents.transaction():
            made = droplets.order(world, body)
        links = droplets.links_of(world, made)
        if "names" in body:
            return {"droplets": [droplets.shown(droplet) for droplet in made], "links": links}
        return {"droplet": droplets.shown(made[0]), "links": links}

    @routes.get("")
    async def listed(request: Request) -> Document:
        found = droplets.select(world, request.query_params)
        return page(world, request, "droplets", [droplets.shown(droplet) for droplet in found])

    @routes.delete("", status_code=204)
    async def delete_tagged(tag_name: str = "") -> None:
        if not tag_name:
            raise invalid("tag_name is required.")
        with world.documents.transaction():
            droplets.give_back_tagged(world, tag_name)

    @routes.get("/{droplet_id}")
    async def retrieve(droplet_id: str) -> Document:
        return {"droplet": droplets.shown(world.find("droplet", droplet_id))}

    @routes.delete("/{droplet_id}", status_code=204)
    async def delete(droplet_id: str) -> None:
        with world.documents.transaction():
            droplets.give_back(world, world.find("droplet", droplet_id))

    return routes


def _actions(world: World) -> APIRouter:
    routes = APIRouter()

    @routes.post("/droplets/{droplet_id}/actions", status_code=201)
    async def begin(request: Request, droplet_id: str) -> Document:
        body = await body_of(request)
        with world.documents.transaction():
            return {"action": actions.shown(actions.request(world, world.find("droplet", droplet_id), body))}

    @routes.get("/droplets/{droplet_id}/actions")
    async def listed(request: Request, droplet_id: str) -> Document:
        found = world.every("action", droplet=world.find("droplet", droplet_id)["id"])
        return page(world, request, "actions", [actions.shown(action) for action in reversed(found)])

    @routes.get("/droplets/{droplet_id}/actions/{action_id}")
    async def of_droplet(droplet_id: str, action_id: str) -> Document:
        action = world.find("action", action_id)
        if action["droplet"] != droplet_id:
            raise not_found()
        return {"action": actions.shown(action)}

    @routes.get("/actions")
    async def every(request: Request) -> Document:
        return page(world, request, "actions", [actions.shown(a) for a in reversed(world.every("action"))])

    @routes.get("/actions/{action_id}")
    async def retrieve(action_id: str) -> Document:
        return {"action": actions.shown(world.find("action", action_id))}

    return routes


def _account(world: World) -> APIRouter:
    routes = APIRouter(prefix="/account")

    @routes.get("")
    async def account() -> Document:
        shown: Document = {"droplet_limit": world.settings.droplet_limit, "floating_ip_limit": 3, "volume_limit": 100}
        shown |= {"email": "sammy@example.com", "uuid": "b6f01e0f5f0d4c0d8a2e6f0b3d2c1a00", "email_verified": True}
        team = {"uuid": "5df3e3004a17e242b7c20ca6c9fc25b701a47ece", "name": "Cloud in a box"}
        return {"account": shown | {"status": "active", "status_message": "", "team": team}}

    @routes.get("/keys")
    async def listed(request: Request) -> Document:
        return page(world, request, "ssh_keys", [keys.shown(key) for key in world.every("key")])

    @routes.post("/keys", status_code=201)
    async def add(request: Request) -> Document:
        body = await body_of(request)
        with world.documents.transaction():
            return {"ssh_key": keys.shown(keys.add(world, body))}

    @routes.get("/keys/{name}")
    async def retrieve(name: str) -> Document:
        return {"ssh_key": keys.shown(keys.find(world, name))}

    @routes.put("/keys/{name}")
    async def rename(request: Request, name: str) -> Document:
        body = await body_of(request)
        with world.documents.transaction():
            return {"ssh_key": keys.shown(keys.rename(world, keys.find(world, name), body))}

    @routes.delete("/keys/{name}", status_code=204)
    async def delete(name: str) -> None:
        with world.documents.transaction():
            world.documents.remove(keys.find(world, name)["id"])

    return routes


def _catalog(world: World) -> APIRouter:
    routes = APIRouter()

    @routes.get("/sizes")
    async def sizes(request: Request) -> Document:
        return page(world, request, "sizes", catalog.sizes())

    @routes.get("/regions")
    async def regions(request: Request) -> Document:
        return page(world, request, "regions", catalog.regions())

    @routes.get("/images")
    async def images(request: Request) -> Document:
        private = request.query_params.get("private") == "true"
        return page(world, request, "images", [] if private else catalog.images())

    @routes.get("/images/{name}")
    async def image(name: str) -> Document:
        found = catalog.image(name)
        if found is None:
            raise not_found()
        return {"image": found}

    return routes


def _vpcs(world: World) -> APIRouter:
    routes = APIRouter(prefix="/vpcs")

    @routes.get("")
    async def listed(request: Request) -> Document:
        return page(world, request, "vpcs", [shown_vpc(vpc) for vpc in world.every("vpc")])

    @routes.post("", status_code=201)
    async def create(request: Request) -> Document:
        body = await body_of(request)
        with world.documents.transaction():
            return {"vpc": shown_vpc(world.order_vpc(body))}

    @routes.get("/{vpc_id}")
    async def retrieve(vpc_id: str) -> Document:
        return {"vpc": shown_vpc(world.find("vpc", vpc_id))}

    @routes.get("/{vpc_id}/members")
    async def members(request: Request, vpc_id: str) -> Document:
        return page(world, request, "members", droplets.members(world, world.find("vpc", vpc_id)))

    @routes.delete("/{vpc_id}", status_code=204)
    async def delete(vpc_id: str) -> None:
        with world.documents.transaction():
            vpc = world.find("vpc", vpc_id)
            if vpc["default"] or droplets.members(world, vpc):
                raise conflict("Can not delete VPC with members, or the default VPC of a region.")
            world.documents.remove(vpc["id"])

    return routes


def _firewalls(world: World) -> APIRouter:
    routes = APIRouter(prefix="/firewalls")

    @routes.get("")
    async def listed(request: Request) -> Document:
        found = [firewalls.shown(world, firewall) for firewall in world.every("firewall")]
        return page(world, request, "firewalls", found)

    @routes.post("", status_code=202)
    async def create(request: Request) -> Document:
        body = await body_of(request)
        with world.documents.transaction():
            return {"firewall": firewalls.shown(world, firewalls.create(world, body))}

    @routes.get("/{firewall_id}")
    async def retrieve(firewall_id: str) -> Document:
        return {"firewall": firewalls.shown(world, world.find("firewall", firewall_id))}

    @routes.put("/{firewall_id}")
    async def replace(request: Request, firewall_id: str) -> Document:
        body = await body_of(request)
        with world.documents.transaction():
            changed = firewalls.replace(world, world.find("firewall", firewall_id), body)
            return {"firewall": firewalls.shown(world, changed)}

    @routes.delete("/{firewall_id}", status_code=204)
    async def delete(firewall_id: str) -> None:
        with world.documents.transaction():
            firewalls.remove(world, world.find("firewall", firewall_id))

    return routes


def _firewall_members(world: World) -> APIRouter:
    """Droplets, tags and rules of a firewall: each is added by POST and taken away by DELETE, both with a body."""
    routes = APIRouter(prefix="/firewalls/{firewall_id}")
    changes = {"droplets": firewalls.change_droplets, "tags": firewalls.change_tags, "rules": firewalls.change_rules}

    @routes.api_route("/{part}", methods=["POST", "DELETE"], status_code=204)
    async def change(request: Request, firewall_id: str, part: str) -> None:
        if part not in changes:
            raise not_found()
        body = await body_of(request)
        with world.documents.transaction():
            firewall = world.find("firewall", firewall_id)
            changes[part](world, firewall, body, add=request.method == "POST")

    return routes


def _tags(world: World) -> APIRouter:
    routes = APIRouter(prefix="/tags")

    @routes.get("")
    async def listed(request: Request) -> Document:
        return page(world, request, "tags", [tags.shown(world, tag) for tag in world.every("tag")])

    @routes.post("", status_code=201)
    async def create(request: Request) -> Document:
        body = await body_of(request)
        with world.documents.transaction():
            return {"tag": tags.shown(world, tags.ensure(world, str(body.get("name") or "")))}

    @routes.get("/{name}")
    async def retrieve(name: str) -> Document:
        return {"tag": tags.shown(world, tags.find(world, name))}

    @routes.delete("/{name}", status_code=204)
    async def delete(name: str) -> None:
        with world.documents.transaction():
            tags.forget(world, tags.find(world, name))

    @routes.post("/{name}/resources", status_code=204)
    async def put_on(request: Request, name: str) -> None:
        body = await body_of(request)
        with world.documents.transaction():
            tags.put_on(world, tags.find(world, name), body)

    @routes.delete("/{name}/resources", status_code=204)
    async def take_off(request: Request, name: str) -> None:
        body = await body_of(request)
        with world.documents.transaction():
            tags.take_off(world, tags.find(world, name), body)

    return routes
