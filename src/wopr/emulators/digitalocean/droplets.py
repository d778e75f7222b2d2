"""Droplets: ordered, shown, given back. What is ordered is stored before any machine is touched."""

import re
from collections.abc import Mapping, Sequence

from wopr.emulators.digitalocean import actions, catalog, firewalls, keys, tags
from wopr.emulators.digitalocean.errors import busy, invalid
from wopr.emulators.digitalocean.machines import Blueprint
from wopr.emulators.digitalocean.world import World, moment, region_of
from wopr.emulators.documents import Document, Query

_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,253}[a-zA-Z0-9])?")
_USER_DATA_BYTES_MAX = 64 * 1024
_AT_ONCE_MAX = 10


def order(world: World, body: Document) -> list[Document]:
    """Accept droplets: one for `name`, several for `names`; each has its number and a pending action `create`."""
    names = _names(body)
    size, region, image = _place(body)
    limit = world.settings.droplet_limit
    if len(world.every("droplet")) + len(names) > limit:
        raise invalid("creating this/these droplet(s) will exceed your droplet limit")
    user_data = body.get("user_data") or ""
    if not isinstance(user_data, str) or len(user_data.encode()) > _USER_DATA_BYTES_MAX:
        raise invalid("User data must be plain text of at most 64 KiB.")
    common: Document = {"object": "droplet", "region": region["slug"], "size": size["slug"], "image": image["slug"]}
    common |= {"status": "new", "user_data": user_data, "networks": None, "created": world.now()}
    common |= {"keys": keys.chosen(world, body.get("ssh_keys") or []), "vpc": _vpc(world, body, region)["id"]}
    common |= {"tags": tags.wanted(world, body.get("tags")), "monitoring": bool(body.get("monitoring"))}
    made = [world.documents.put(common | {"id": str(world.number()), "name": name}) for name in names]
    for droplet in made:
        actions.begin(world, droplet, "create")
    world.wake()
    return made


def select(world: World, query: Mapping[str, str]) -> list[Document]:
    """Droplets by name, tag and type. Documented: without a type only those without a GPU; a tag goes with nothing."""
    tag, name, kind = query.get("tag_name"), query.get("name"), query.get("type")
    if tag and (name or kind):
        raise invalid("tag_name can not be combined with name or type.")
    if kind not in (None, "droplets", "gpus"):
        raise invalid("type must be droplets or gpus.")
    found = world.every("droplet")
    if tag:
        found = [droplet for droplet in found if tag in droplet["tags"]]
        return found if world.settings.gpus_by_tag else [d for d in found if not _has_gpu(d)]
    if name:
        found = [droplet for droplet in found if droplet["name"].lower() == name.lower()]
    return [droplet for droplet in found if _has_gpu(droplet) == (kind == "gpus")]


def give_back(world: World, droplet: Document) -> None:
    """Accept that a droplet is destroyed; it is not shown any more."""
    if actions.pending(world, droplet["id"]) is not None:
        raise busy()
    _doom(world, droplet)


def give_back_tagged(world: World, tag: str) -> None:
    """Accept that every droplet with a tag is destroyed, as soon as what is under way on each has ended."""
    for droplet in world.every("droplet"):
        if tag in droplet["tags"]:
            _doom(world, droplet)


def all_of(world: World) -> list[Document]:
    """Every droplet, those included that are being destroyed."""
    return world.documents.select(Query("droplet", limit=100_000, oldest_first=True))


def note(world: World, droplet_id: str, **changes: object) -> None:
    """Change what is known of a droplet, and nothing that others changed meanwhile."""
    droplet = world.documents.get(droplet_id, "droplet")
    if droplet is not None:
        world.documents.put(droplet | changes)


def forget(world: World, droplet: Document) -> None:
    """Nothing is left of it but the record of what was done to it."""
    firewalls.forget_droplet(world, int(droplet["id"]))
    world.documents.remove(droplet["id"])


def blueprint(world: World, droplet: Document) -> Blueprint:
    """The machine that stands behind a droplet."""
    size = catalog.size(droplet["size"])
    assert size is not None, "a stored droplet has a size that exists"
    vpc = world.find("vpc", droplet["vpc"])
    return Blueprint(
        droplet_id=int(droplet["id"]),
        name=droplet["name"],
        region=droplet["region"],
        image=droplet["image"],
        memory_mib=size["memory"],
        vcpus=size["vcpus"],
        user_data=droplet["user_data"],
        public_keys=tuple(droplet["keys"]),
        vpc=vpc["id"],
        vpc_range=vpc["ip_range"],
    )


def shown(droplet: Document) -> Document:
    """A droplet as the API shows it."""
    size, image = catalog.size(droplet["size"]), catalog.image(droplet["image"])
    assert size is not None, "a stored droplet has a size that exists"
    answer: Document = {"id": int(droplet["id"]), "name": droplet["name"], "status": droplet["status"]}
    answer |= {"memory": size["memory"], "vcpus": size["vcpus"], "disk": size["disk"], "locked": False}
    answer |= {"disk_info": size["disk_info"], "kernel": None, "created_at": moment(droplet["created"])}
    answer |= {"features": ["monitoring"] if droplet["monitoring"] else [], "backup_ids": [], "snapshot_ids": []}
    answer |= {"next_backup_window": None, "image": image, "volume_ids": [], "size": size, "size_slug": size["slug"]}
    answer |= {"networks": {"v4": droplet["networks"] or [], "v6": []}, "region": region_of(droplet["region"])}
    answer |= {"tags": droplet["tags"], "vpc_uuid": droplet["vpc"]}
    return answer | ({"gpu_info": size["gpu_info"]} if "gpu_info" in size else {})


def links_of(world: World, made: Sequence[Document]) -> Document:
    """Where the creation of droplets can be watched."""
    begun = [action for droplet in made if (action := actions.pending(world, droplet["id"])) is not None]
    watched = [{"id": int(a["id"]), "rel": "create", "href": f"{world.base_url}/v2/actions/{a['id']}"} for a in begun]
    return {"actions": watched}


def members(world: World, vpc: Document) -> list[Document]:
    """What is in a private network."""
    inside = [droplet for droplet in world.every("droplet") if droplet["vpc"] == vpc["id"]]
    return [
        {"urn": f"do:droplet:{droplet['id']}", "name": droplet["name"], "created_at": moment(droplet["created"])}
        for droplet in inside
    ]


def _has_gpu(droplet: Document) -> bool:
    size = catalog.size(droplet["size"])
    return size is not None and "gpu_info" in size


def _doom(world: World, droplet: Document) -> None:
    world.documents.put(droplet | {"_destroyed": world.now()})
    world.wake()


def _names(body: Document) -> list[str]:
    names = body.get("names") or ([body["name"]] if body.get("name") else [])
    if not names or not isinstance(names, list):
        raise invalid("Name can't be blank.")
    if len(names) > _AT_ONCE_MAX:
        raise invalid(f"You can only create up to {_AT_ONCE_MAX} droplets at once.")
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
        raise invalid("Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)")
    return names


def _place(body: Document) -> tuple[Document, Document, Document]:
    size = catalog.size(str(body.get("size")))
    if size is None:
        raise invalid("You specified an invalid size for Droplet creation.")
    region = catalog.region(str(body.get("region")))
    if region is None:
        raise invalid("You specified an invalid region for Droplet creation.")
    if region["slug"] not in size["regions"]:
        raise invalid("Size is not available in this region.")
    image = catalog.image(body.get("image") or "")
    if image is None:
        raise invalid("You specified an invalid image for Droplet creation.")
    return size, region, image


def _vpc(world: World, body: Document, region: Document) -> Document:
    wanted = body.get("vpc_uuid")
    if not wanted:
        return world.default_vpc(region["slug"])
    vpc = world.documents.get(str(wanted), "vpc")
    if vpc is None or vpc["region"] != region["slug"]:
        raise invalid("VPC must be in the same region as the Droplet.")
    return vpc
