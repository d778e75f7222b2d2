"""Request and answer bodies of inference: models on offer, nodes, and what rented machines say of themselves."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from wopr.cloud.compute import Size
from wopr.core.money import from_cents, to_usd_string
from wopr.core.routing import ApiModel
from wopr.inference import nodes as registry
from wopr.inference.log_sources import Source
from wopr.inference.offer import Offered
from wopr.inference.rented import DETAIL_CHARACTERS_MAX
from wopr.inference.repair_state import repair_of, told

WORD_MAX = registry.NAME_LENGTH_MAX


class ModelBody(ApiModel):
    """One model on offer. Prices that its kind does not have are null."""

    id: str
    kind: str
    available: bool
    aliases: list[str]
    prompt_per_million_usd: str | None
    completion_per_million_usd: str | None
    per_million_characters_usd: str | None
    per_minute_usd: str | None


class ModelsBody(ApiModel):
    """Every model, and the voices of those that speak."""

    models: list[ModelBody]
    voices: list[str]


class NodeBody(ApiModel):
    """One node, as an administrator sees it. `service_health` says of each service whether it answers."""

    id: str
    host: str
    region: str
    size: str
    status: str
    provision_stage: str
    service_health: dict[str, bool]
    last_health_at: datetime | None
    last_error: str | None
    monthly_cost_usd: str
    ports: dict[str, int]
    rented: bool
    desired: str
    running: int | None = Field(description="Requests that still run there; of a node that is drained.")
    drained: bool
    repair: str = Field(description="What is being done to bring it back, in words; empty when nothing.")
    machine_id: str | None
    stage_at: datetime | None
    provision_error: str | None
    hourly_cost_usd: str
    cost_so_far_usd: str


class NodesBody(ApiModel):
    """Every node."""

    nodes: list[NodeBody]


class NewNode(ApiModel):
    """A machine that runs already and is to serve."""

    id: str = Field(min_length=1, max_length=WORD_MAX)
    host: str = Field(min_length=1, max_length=WORD_MAX)
    region: str = Field(default="local", min_length=1, max_length=WORD_MAX)
    size: str = Field(default="cpu", min_length=1, max_length=WORD_MAX)
    ports: dict[str, int] | None = None
    api_key: str | None = Field(default=None, max_length=512)


class StageBody(ApiModel):
    """A stage that the making of a node reached."""

    stage: str
    at: datetime
    detail: str


class NodeDetail(NodeBody):
    """One node with the course of its making."""

    log: list[StageBody]


class NodeLogsBody(ApiModel):
    """The last lines of a node's service or of its making, oldest first."""

    node: str
    source: Source
    lines: list[str]


class SizeBody(ApiModel):
    """Something that can be rented."""

    slug: str
    description: str
    gpu: str | None
    vcpus: int
    memory_mib: int
    disk_gib: int
    hourly_usd: str
    monthly_usd: str
    regions: list[str]


class SizesBody(ApiModel):
    """What can be rented, the cheapest first, and what is meant where nothing is said."""

    sizes: list[SizeBody]
    default_size: str
    default_region: str


class NewNodes(ApiModel):
    """Nodes to be rented. What is left out is as the settings have it."""

    region: str = Field(default="", max_length=WORD_MAX)
    size: str = Field(default="", max_length=WORD_MAX)
    count: int = 1


class Wish(ApiModel):
    """What is wanted of a node."""

    desired: Literal["serving", "cordoned", "drained"]


class RepairNow(ApiModel):
    """What is to be done to a node now."""

    rung: Literal["restart", "reboot", "power_cycle", "replace"] = "restart"


class Reboot(ApiModel):
    """How a machine is restarted: `hard` cuts its power instead of asking its system."""

    hard: bool = False


class RebootBody(ApiModel):
    """The cloud's id of the restart, which goes on by itself."""

    action_id: str


class OpenedBody(ApiModel):
    """What a machine gets for its token: files by name, secrets among them."""

    node_id: str
    files: Mapping[str, str]


class Report(ApiModel):
    """What a machine says besides the stage: why it failed, the last lines of its log."""

    detail: str = Field(default="", max_length=4 * DETAIL_CHARACTERS_MAX)


class ReportedBody(ApiModel):
    """Where the node stands after the report; `changed` is false for one that came late or twice."""

    node_id: str
    provision_stage: str
    changed: bool


def model_body(model: Offered) -> ModelBody:
    price = model.price
    tokens = model.kind in ("chat", "embedding")
    return ModelBody(
        id=model.name,
        kind=model.kind,
        available=model.available,
        aliases=list(model.aliases),
        prompt_per_million_usd=to_usd_string(price.prompt) if tokens else None,
        completion_per_million_usd=to_usd_string(price.completion) if model.kind == "chat" else None,
        per_million_characters_usd=to_usd_string(price.unit) if model.kind == "speech" else None,
        per_minute_usd=to_usd_string(price.unit) if model.kind == "transcription" else None,
    )


def node_body(node: registry.Node, now: datetime) -> NodeBody:
    repair = repair_of(node)
    return NodeBody(
        id=node.id,
        host=node.host,
        region=node.region,
        size=node.size,
        status=node.status,
        provision_stage=node.provision_stage,
        service_health=dict(node.service_health),
        last_health_at=_moment(node.last_health_at),
        last_error=node.last_error,
        monthly_cost_usd=to_usd_string(from_cents(node.monthly_cost_cents)),
        ports=dict(node.ports),
        rented=node.provider is not None,
        desired=node.desired,
        running=repair.running,
        drained=repair.drained_at is not None,
        repair=told(node),
        machine_id=node.making.machine_id,
        stage_at=_moment(node.making.stage_at),
        provision_error=node.making.error,
        hourly_cost_usd=to_usd_string(node.making.hourly_cost_nanos),
        cost_so_far_usd=to_usd_string(registry.cost_so_far(node, int(now.timestamp()))),
    )


def node_detail(node: registry.Node, now: datetime) -> NodeDetail:
    log = [
        StageBody(stage=entry["stage"], at=datetime.fromtimestamp(entry["at"], UTC), detail=entry["detail"])
        for entry in node.making.log
    ]
    return NodeDetail(**node_body(node, now).model_dump(), log=log)


def size_body(size: Size) -> SizeBody:
    return SizeBody(
        slug=size.slug,
        description=size.description,
        gpu=size.gpu,
        vcpus=size.vcpus,
        memory_mib=size.memory_mib,
        disk_gib=size.disk_gib,
        hourly_usd=to_usd_string(size.hourly_nanos),
        monthly_usd=to_usd_string(from_cents(size.monthly_cents)),
        regions=sorted(size.regions),
    )


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
