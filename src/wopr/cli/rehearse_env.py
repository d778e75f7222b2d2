"""What a rehearsal is about: what was chosen, which images it needs, and the settings of the VPS."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wopr.cli.installation import DIR
from wopr.cli.rehearse_stage import Stage

FIRST = "first"
THIRD_PARTIES: Mapping[str, str] = {"POSTGRES_IMAGE": "postgres:16-alpine", "CADDY_IMAGE": "caddy:2-alpine"}
# How nodes are made: as the operator's own settings have it. No key, and no address of a company.
NODE_SETTINGS = (
    *("GPU_TEXT_MODEL", "GPU_TEXT_MODEL_SHA256", "GPU_EMBEDDING_MODEL", "GPU_EMBEDDING_MODEL_SHA256"),
    *("GPU_FLASH_ATTN", "GPU_CONTEXT", "BOT_MODEL", "BOT_EMBEDDING_MODEL"),
)
# What bots ask for: the names under which a node serves. The defaults are those of `wopr up`, which no rented node has.
BOT_MODELS = {"BOT_MODEL": "llama", "BOT_EMBEDDING_MODEL": "qwen2-0_5b-instruct-q8_0"}
NODE_IMAGES = ("LLAMA_IMAGE", "CHATTERBOX_IMAGE", "WHISPER_IMAGE", "GATE_IMAGE")


@dataclass(frozen=True)
class Wish:
    """What the operator chose. Images are built from `source`, a checkout, unless two are named."""

    source: Path
    platform: str = ""
    bot: str = ""
    region: str = "tor1"
    size: str = "s-2vcpu-4gb"
    node_size: str = "s-4vcpu-8gb"


def env_of(stage: Stage, there: str, wish: Wish) -> Mapping[str, str]:
    """What stands in `.env` on the VPS, as the handbook has it: the stand-ins' addresses, the images in `there`."""
    from wopr.core.settings import load_settings

    chosen = load_settings()
    given = [name for name in NODE_SETTINGS if name.lower() in chosen.model_fields_set]
    return {
        **stage.settings(),
        **BOT_MODELS,
        **{name: str(getattr(chosen, name.lower())) for name in given},
        **{name: f"{there}/{short(name)}:{FIRST}" for name in (*THIRD_PARTIES, *NODE_IMAGES)},
        "WOPR_IMAGE": f"{there}/wopr-platform:{FIRST}",
        "BOT_IMAGE": f"{there}/wopr-bot:{FIRST}",
        "WOPR_DOMAIN": stage.domain,
        "WOPR_TLS": "dns",
        "ACME_CA_BUNDLE": f"{DIR}/authority.pem",
        "ACME_EMAIL": f"ops@{stage.domain}",
        "REGISTRY_SERVER": stage.registry,
        "REGISTRY_PLAIN_HTTP": stage.registry,
        "STRIPE_WEBHOOK_SECRET": stage.hook_secret,
        "STRIPE_DEFAULT_PRICE_ID": "price_wopr_monthly",
        "MAIL_FROM": f'"WOPR <hello@{stage.domain}>"',
        "GPU_REGION": wish.region,
        "GPU_SIZE": wish.node_size,
    }


def other_images() -> Mapping[str, str]:
    """Images that are not ours by their settings: those of a node as the operator chose them, else the runbook's."""
    from wopr.core.settings import load_settings

    chosen = load_settings()
    return {**THIRD_PARTIES, **{name: str(getattr(chosen, name.lower())) for name in NODE_IMAGES}}


def short(setting: str) -> str:
    return setting.removesuffix("_IMAGE").lower()
