"""Tags: names on droplets, made when they are first used."""

import re
from collections.abc import Callable

from wopr.emulators.digitalocean.errors import invalid, not_found
from wopr.emulators.digitalocean.world import World
from wopr.emulators.documents import Document

_TAG = re.compile(r"[a-zA-Z0-9_\-:]{1,255}")


def wanted(world: World, names: object) -> list[str]:
    """Tags that an order names, each known from now on."""
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise invalid("tags must be an array of strings.")
    return [ensure(world, name)["name"] for name in dict.fromkeys(names)]


def ensure(world: World, name: str) -> Document:
    """The tag, made if it is new."""
    if not _TAG.fullmatch(name):
        raise invalid("Tag names can only contain letters, numbers, colons, dashes and underscores.")
    known = world.documents.get(f"tag/{name}", "tag")
    return known or world.documents.put({"object": "tag", "id": f"tag/{name}", "name": name})


def find(world: World, name: str) -> Document:
    """The tag, or DigitalOcean's 404."""
    return world.find("tag", f"tag/{name}")


def forget(world: World, tag: Document) -> None:
    """Take a tag off everything and forget it."""
    for droplet in world.every("droplet"):
        _change(world, droplet, lambda known: [t for t in known if t != tag["name"]])
    world.documents.remove(tag["id"])
    world.wake()


def put_on(world: World, tag: Document, body: Document) -> None:
    """Tag the droplets that a request names."""
    for droplet in _named(world, body):
        _change(world, droplet, lambda known: [*(t for t in known if t != tag["name"]), tag["name"]])
    world.wake()


def take_off(world: World, tag: Document, body: Document) -> None:
    """Untag the droplets that a request names."""
    for droplet in _named(world, body):
        _change(world, droplet, lambda known: [t for t in known if t != tag["name"]])
    world.wake()


def shown(world: World, tag: Document) -> Document:
    """A tag as the API shows it."""
    tagged = [droplet for droplet in world.every("droplet") if tag["name"] in droplet["tags"]]
    last = f"{world.base_url}/v2/droplets/{tagged[-1]['id']}" if tagged else ""
    count: Document = {"count": len(tagged)} | ({"last_tagged_uri": last} if last else {})
    return {"name": tag["name"], "resources": count | {"droplets": count}}


def _named(world: World, body: Document) -> list[Document]:
    resources = body.get("resources")
    if not isinstance(resources, list):
        raise invalid("resources must be an array.")
    for resource in resources:
        if not isinstance(resource, dict) or resource.get("resource_type") != "droplet":
            raise invalid("The stand-in knows resources of the type droplet only.")
    found = [world.documents.get(str(resource.get("resource_id")), "droplet") for resource in resources]
    if any(droplet is None or droplet.get("_destroyed") for droplet in found):
        raise not_found()
    return [droplet for droplet in found if droplet is not None]


def _change(world: World, droplet: Document, change: Callable[[list[str]], list[str]]) -> None:
    after = change(droplet["tags"])
    if after != droplet["tags"]:
        world.documents.put(droplet | {"tags": after})
