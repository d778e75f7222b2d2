"""Actions: what is done to a droplet takes a while, one thing at a time, and its state is asked for."""

from wopr.emulators.digitalocean import catalog
from wopr.emulators.digitalocean.errors import busy, invalid
from wopr.emulators.digitalocean.world import World, moment, region_of
from wopr.emulators.documents import Document

PENDING, COMPLETED, ERRORED = "in-progress", "completed", "errored"
KINDS = ("reboot", "power_cycle", "power_off", "power_on", "shutdown", "rebuild")
_ELSEWHERE = (
    "enable_backups",
    "disable_backups",
    "restore",
    "password_reset",
    "resize",
    "rename",
    "change_kernel",
    "enable_ipv6",
    "snapshot",
)


def request(world: World, droplet: Document, body: Document) -> Document:
    """Accept an action that somebody asked for."""
    kind = body.get("type")
    if kind in _ELSEWHERE:
        raise invalid(f"The stand-in does not emulate the action {kind}; the real API accepts it.")
    if kind not in KINDS:
        raise invalid("The action type is invalid.")
    if pending(world, droplet["id"]) is not None:
        raise busy()
    if kind == "power_on" and droplet["status"] != "off":
        raise invalid("Droplet is already powered on.")
    if kind in ("power_off", "shutdown", "reboot") and droplet["status"] == "off":
        raise invalid("Droplet is currently powered off. Please power it on to run this event.")
    image = None
    if kind == "rebuild":
        wanted = catalog.image(body.get("image") or "")
        if wanted is None:
            raise invalid("You specified an invalid image for Droplet rebuild.")
        image = wanted["slug"]
    action = begin(world, droplet, str(kind), image=image)
    world.wake()
    return action


def begin(world: World, droplet: Document, kind: str, image: str | None = None) -> Document:
    """Note that something is to be done; the operator does it."""
    action: Document = {"object": "action", "id": str(world.number()), "type": kind, "status": PENDING}
    action |= {"droplet": droplet["id"], "region": droplet["region"], "image": image}
    return world.documents.put(action | {"started": world.now(), "completed": None})


def pending(world: World, droplet_id: str) -> Document | None:
    """What is under way on a droplet."""
    return next(iter(world.every("action", droplet=droplet_id, status=PENDING)), None)


def finish(world: World, action: Document, status: str) -> Document:
    """Note how it went."""
    return world.documents.put(action | {"status": status, "completed": world.now()})


def shown(action: Document) -> Document:
    """An action as the API shows it."""
    completed = action["completed"]
    answer: Document = {"id": int(action["id"]), "status": action["status"], "type": action["type"]}
    answer |= {"started_at": moment(action["started"]), "completed_at": moment(completed) if completed else None}
    answer |= {"resource_id": int(action["droplet"]), "resource_type": "droplet"}
    return answer | {"region": region_of(action["region"]), "region_slug": action["region"]}
