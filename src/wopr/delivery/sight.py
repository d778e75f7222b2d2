"""What a release leaves behind as the runbook shows it: the stack's containers, its addresses, its secrets' names."""

from collections.abc import Mapping, Sequence

from wopr.delivery.context import Context
from wopr.delivery.errors import HostFailed
from wopr.delivery.look import containers
from wopr.delivery.plan import Container
from wopr.ops.logbook.observed import ADDRESSES, STACK, VPS
from wopr.ops.observed import observe, observe_secrets

# Inside the network; only Caddy's are published.
PORTS = {"caddy": "80, 443", "postgres": "5432", "api": "3100", "ui": "3000"}


async def record_sight(ctx: Context) -> None:
    """Journal what is there now, where it differs from the last time. A host that does not answer leaves no sight."""
    try:
        found = await containers(ctx.host, ctx.place)
    except HostFailed:
        return
    journal, settings = ctx.operation.journal, ctx.settings
    observe(journal, STACK, stack_rows(found), keep=False)
    named = (("api", settings.get("BETTER_AUTH_URL") or settings.get("API_URL")), ("ui", settings.get("UI_URL")))
    observe(journal, ADDRESSES, [{"name": name, "address": url} for name, url in named if url], keep=False)
    observe(journal, VPS, [{"name": "vps", "status": "in use", "host": ctx.host.describe()}], keep=False)
    observe_secrets(journal, ctx.settings, keep=False)


def stack_rows(found: Sequence[Container]) -> Sequence[Mapping[str, str]]:
    """A row for each container, by name. Pure."""
    return [
        {
            "name": one.service or one.name,
            "image": one.image,
            "port": PORTS.get(one.service.partition("-")[0], ""),
            "status": one.status if one.release is None else f"{one.status}, release {one.release}",
        }
        for one in sorted(found, key=lambda one: one.service or one.name)
    ]
