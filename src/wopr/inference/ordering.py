"""What a person asks of rented nodes, checked before anything is paid for: sizes with prices, orders."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from wopr.cloud.compute import Compute, Size
from wopr.core.errors import Conflict, Invalid, NotFound
from wopr.core.settings import Settings
from wopr.inference import bootstrap
from wopr.inference.rented import Terms

COUNT_MAX = 20
ID_BYTES = 3
MAKER = "nvidia"  # whose drivers and container runtime deploy/cloud-init/setup installs


@dataclass(frozen=True)
class Plan:
    """What would be rented: ids of the nodes to come, the size with its price, and where."""

    node_ids: Sequence[str]
    size: Size
    region: str

    @property
    def terms(self) -> Terms:
        return Terms(self.region, self.size.slug, self.size.monthly_cents, self.size.hourly_nanos)


async def plan(cloud: Compute, settings: Settings, *, region: str = "", size: str = "", count: int = 1) -> Plan:
    """The order as it would be placed; empty words mean the settings'. Invalid, NotFound, Conflict, CloudError."""
    settings.require("platform_secret", "Renting machines")
    bootstrap.check(settings)
    region, slug = region or settings.gpu_region, size or settings.gpu_size
    if not 1 <= count <= COUNT_MAX:
        raise Invalid(f"{count} nodes can't be ordered at once.", remedy=f"Order from 1 to {COUNT_MAX}.")
    found = next((one for one in await cloud.sizes() if one.slug == slug), None)
    if found is None:
        raise NotFound(f"The cloud has no size {slug}.", remedy="`wopr nodes sizes` lists those that there are.")
    if found.gpu and MAKER not in found.gpu_model.lower():
        raise Invalid(
            f"{slug} has {found.gpu}, and only NVIDIA's GPUs can be set up.",
            remedy="`wopr nodes sizes --gpu` lists sizes with a GPU; those with nvidia in its name can be ordered.",
        )
    if region not in found.regions:
        where = ", ".join(sorted(found.regions)) or "nowhere at present"
        raise Invalid(f"{slug} is not to be had in {region}.", remedy=f"It is in: {where}.")
    account, present = await cloud.account(), len(await cloud.machines())
    if present + count > account.machines_max:
        raise Conflict(
            f"The account may have {account.machines_max} machines and has {present}.",
            remedy="Destroy a node, or ask the cloud's company for a higher limit.",
        )
    return Plan([f"gpu-{region}-{secrets.token_hex(ID_BYTES)}" for _ in range(count)], found, region)


async def rentable(cloud: Compute, *, gpu_only: bool = False) -> Sequence[Size]:
    """What can be rented somewhere, the cheapest first."""
    found = [size for size in await cloud.sizes() if size.regions and (size.gpu or not gpu_only)]
    return sorted(found, key=lambda size: (size.hourly_nanos, size.slug))
