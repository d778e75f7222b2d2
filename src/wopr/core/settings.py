"""Configuration: one object, read once. The names of the runbook are accepted as they are.

Nothing is required to start. A feature that needs a setting asks for it when it is used, through `require`, so that a
missing `DO_API_TOKEN` never stops the API. `docs/settings.md` is compared with this file by a test.
"""

import hashlib
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from wopr.core.errors import NotConfigured
from wopr.core.files import RUNNING_FILE, SECRETS_FILE


def _home_default() -> Path:
    return Path.cwd() / ".wopr"


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _networks(value: str) -> str:
    for part in value.split(","):
        if part.strip():
            ip_network(part.strip(), strict=False)
    return value


Port = Annotated[int, Field(ge=0, le=65_535)]


class Settings(BaseSettings):
    """Every setting, its type, default and purpose. Secrets print as dots."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True, populate_by_name=True)

    # where things are
    wopr_home: Path = Field(
        default_factory=_home_default, description="Folder of everything that is kept on this machine."
    )
    database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL; without it the embedded server under WOPR_HOME."
    )
    database_pool_size: int = Field(default=10, ge=2, le=100, description="Connections that one process keeps at most.")
    api_url: str = Field(
        default="http://localhost:3100",
        validation_alias=AliasChoices("BETTER_AUTH_URL", "API_URL"),
        description="Public address of the API (BETTER_AUTH_URL, also accepted as API_URL).",
    )
    api_internal_url: str = Field(
        default="", description="Address at which the UI and bots reach the API; empty: as API_URL."
    )
    ui_url: str = Field(
        default="http://localhost:3000", description="Public address of the UI; links in mails point there."
    )
    cookie_domain: str = Field(
        default="", description="Domain of the session cookie; `.wopr.bot` in production, empty: host only."
    )
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        default="127.0.0.1/32,::1/128", description="Networks whose X-Forwarded-For is believed, by comma."
    )
    allowed_origins: str = Field(
        default="", description="Further origins that may send state-changing cookie requests, by comma."
    )
    api_host: str = Field(default="127.0.0.1", description="Address on which the API listens.")
    api_port: Port = Field(default=3100, description="Port of the API.")
    ui_host: str = Field(default="127.0.0.1", description="Address on which the UI listens.")
    ui_port: Port = Field(default=3000, description="Port of the UI.")
    drain_seconds: float = Field(
        default=20.0, ge=0, description="Seconds that running requests get when a process is stopped."
    )
    drain_lead_seconds: float = Field(
        default=1.0, ge=0, description="Seconds between saying draining on `/ready` and closing the listener."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        default="info", description="debug, info, warning or error."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="json, text, or auto: text on a terminal, json elsewhere."
    )

    # secrets of our own
    better_auth_secret: SecretStr | None = Field(
        default=None, description="Signs sessions and links; several by comma, the first signs."
    )
    platform_secret: SecretStr | None = Field(default=None, description="Service-to-service authentication.")
    gpu_node_secret: SecretStr | None = Field(
        default=None, description="Shared secret with which GPU nodes register themselves."
    )

    # payments
    stripe_secret_key: SecretStr | None = Field(default=None, description="Stripe's secret API key.")
    stripe_webhook_secret: SecretStr | None = Field(
        default=None, description="Signing secret of the webhook: the whole `whsec_…` string."
    )
    stripe_default_price_id: str = Field(default="", description="Stripe's id of the $5 a month price.")
    stripe_api_base: str = Field(default="https://api.stripe.com", description="Address of Stripe's API.")
    wopr_prices: Path | None = Field(
        default=None, description="Price file of the operator; without it the packaged one."
    )

    # mail
    resend_api_key: SecretStr | None = Field(default=None, description="Resend's API key.")
    resend_api_base: str = Field(default="https://api.resend.com", description="Address of Resend's API.")
    smtp_url: SecretStr | None = Field(
        default=None, description="smtp://user:password@host:port, used when there is no Resend key."
    )
    mail_from: str = Field(
        default="WOPR <hello@wopr.bot>", description="Sender of our mails; its domain must be verified at Resend."
    )

    # cloud and registry
    do_api_token: SecretStr | None = Field(default=None, description="DigitalOcean: droplets of the fleet.")
    do_api_base: str = Field(default="https://api.digitalocean.com", description="Address of DigitalOcean's API.")
    cloudflare_api_token: SecretStr | None = Field(default=None, description="Cloudflare: DNS records and DNS-01.")
    cloudflare_api_base: str = Field(
        default="https://api.cloudflare.com/client/v4", description="Address of Cloudflare's API."
    )
    public_address: str = Field(
        default="",
        pattern=r"^(\d{1,3}(\.\d{1,3}){3})?$",
        description="IPv4 address at which customers reach this host; empty: its own, where that is a public one.",
    )
    dns_servers: str = Field(
        default="",
        description="Name servers that `wopr dns` and `wopr smoke` ask, by comma; empty: the usual ones.",
    )
    acme_directory: str = Field(
        default="https://acme-v02.api.letsencrypt.org/directory",
        description="ACME directory of the authority that signs our certificates.",
    )
    acme_email: str = Field(default="", description="Where that authority writes to; empty: nowhere.")
    acme_ca_bundle: Path | None = Field(
        default=None,
        description="Roots by which the directory, and what it signs, are trusted: for an authority of one's own.",
    )
    registry_server: str = Field(default="ghcr.io", description="Registry of our images.")
    registry_username: str = Field(default="", description="User name at the registry.")
    registry_password: SecretStr | None = Field(default=None, description="Password or token at the registry.")
    registry_plain_http: str = Field(
        default="", description="Registries of your own network that speak plain HTTP, as host:port, by comma."
    )

    # continuous delivery
    wopr_image: str = Field(
        default="ghcr.io/wopr-network/wopr-platform:latest",
        description="Image of the platform by tag, which `wopr deliver` watches.",
    )
    deliver_period_seconds: float = Field(
        default=5.0, ge=1, description="Seconds between two looks at the registry for new images."
    )
    deliver_hook_host: str = Field(
        default="0.0.0.0",  # noqa: S104 - inside its container; outside only what publishes it is reached
        description="Address on which `wopr deliver` listens for notifications of pushes.",
    )
    deliver_hook_port: Port = Field(default=3200, description="Port of that listener.")
    deliver_hook_secret: SecretStr | None = Field(
        default=None, description="What a registry's notifications must carry; without it they are not listened for."
    )
    github_webhook_secret: SecretStr | None = Field(
        default=None, description="Signs GitHub's webhooks of packages; without it they are not listened for."
    )

    # inference
    gpu_node_id: str = Field(
        default="local", description="Stable id under which this machine's services are registered."
    )
    engine_host: str = Field(default="127.0.0.1", description="Address on which the embedded engines listen.")
    engine_api_key: SecretStr | None = Field(
        default=None, description="Key that the embedded engines demand; empty: none."
    )
    llama_port: Port = Field(default=8080, description="Port of the text engine.")
    chatterbox_port: Port = Field(default=8081, description="Port of the speech engine.")
    whisper_port: Port = Field(default=8082, description="Port of the transcription engine.")
    qwen_port: Port = Field(default=8083, description="Port of the embedding engine.")
    models_dir: Path | None = Field(
        default=None, description="Folder with model weights; empty: `models` under WOPR_HOME."
    )
    watchdog_period_seconds: float = Field(
        default=2.0, gt=0, description="Seconds between two looks at every node; 5 is right for hundreds of them."
    )
    node_ssh_port: Port = Field(default=22, description="Port of SSH on nodes, over which services are restarted.")
    alert_webhook_url: SecretStr | None = Field(
        default=None,
        description="Address to which is posted, as JSON, what administrators are mailed of nodes and machines.",
    )
    incident_after_seconds: float = Field(
        default=120.0, gt=0, description="Seconds that something must stay down before an incident opens by itself."
    )
    fallback_api_base: str = Field(
        default="", description="OpenAI-compatible provider used when no node of ours can serve."
    )
    fallback_api_key: SecretStr | None = Field(default=None, description="Key at that provider.")
    fallback_model: str = Field(
        default="", description="Model asked of that provider; empty: the one that was asked of us."
    )

    # nodes that are rented
    node_api_url: str = Field(default="", description="Address at which rented nodes reach the API; empty: as API_URL.")
    gpu_region: str = Field(default="tor1", description="Region of rented nodes; the VPS belongs there as well.")
    gpu_size: str = Field(
        default="gpu-4000adax1-20gb", description="Size of rented nodes; `wopr nodes sizes` lists them with prices."
    )
    gpu_image: str = Field(
        default="", description="System of rented nodes; empty: with drivers where there is a GPU, else Ubuntu."
    )
    gpu_vpc: str = Field(default="", description="Id of the private network of rented nodes; empty: the region's own.")
    gpu_ssh_keys: str = Field(
        default="", description="Fingerprints of people's SSH keys at the cloud that rented nodes admit, by comma."
    )
    gpu_admit: Annotated[str, AfterValidator(_networks)] = Field(
        default="10.0.0.0/8",
        description="Networks from which rented nodes are reached, by comma: the platform's private address at best.",
    )
    gpu_nodes_max: int = Field(default=8, ge=0, description="Nodes that may be rented at the same time.")
    gpu_text_model: str = Field(
        default="qwen2.5-1.5b", description="Text model of rented nodes: a name of `wopr models list`, or an address."
    )
    gpu_text_model_sha256: str = Field(default="", description="Its SHA-256; empty: what its publisher says.")
    gpu_embedding_model: str = Field(
        default="qwen2-embedding", description="Embedding model of rented nodes, named likewise."
    )
    gpu_embedding_model_sha256: str = Field(default="", description="SHA-256 of that one; empty: its publisher's.")
    gpu_flash_attn: Literal["on", "off", "auto"] = Field(
        default="auto", description="Flash attention of llama.cpp on rented nodes: on, off or auto."
    )
    gpu_context: int = Field(default=8192, ge=256, description="Tokens of context of the text model on rented nodes.")
    llama_image: str = Field(
        default="ghcr.io/ggml-org/llama.cpp:server-cuda",
        description="Image of the text and the embedding service on rented nodes.",
    )
    chatterbox_image: str = Field(
        default="travisvn/chatterbox-tts-api:gpu", description="Image of the speech service on rented nodes."
    )
    whisper_image: str = Field(
        default="fedirz/faster-whisper-server:0.6.0-rc.3-cuda",
        description="Image of the transcription service on rented nodes.",
    )
    gate_image: str = Field(
        default="caddy:2-alpine", description="Image of the proxy that asks for the node's key before its services."
    )

    gateway_requests_per_minute: int = Field(
        default=600, ge=1, description="Requests a minute that one tenant, and one key, may send to `/v1`."
    )
    gateway_concurrency_max: int = Field(
        default=64, ge=1, description="Requests to `/v1` that one tenant, and one key, may have running in one process."
    )

    # fleet
    bot_runtime: Literal["process", "docker", "swarm"] = Field(
        default="process", description="How bots run: process, docker (containers of one machine) or swarm (of many)."
    )
    bot_model: str = Field(
        default="handbook", description="Model of bots for which nobody chose one; some node must serve it."
    )
    bot_embedding_model: str = Field(default="minilm", description="Model with which bots remember.")
    bot_speech_model: str = Field(default="flite", description="Model with which bots speak.")
    bot_transcription_model: str = Field(default="whisper-1", description="Model with which bots listen.")
    bots_max: int = Field(default=20, ge=1, description="Bots that one tenant may have.")
    bot_image: str = Field(
        default="ghcr.io/wopr-network/wopr-bot:latest", description="Image of the bots where they run in containers."
    )
    bot_starts_at_once: int = Field(
        default=8, ge=1, le=200, description="Bots that start at the same time; the others wait for their turn."
    )
    bot_updates_at_once: int = Field(
        default=5, ge=1, le=200, description="Bots that move to another image at the same time."
    )
    bot_update_wait_seconds: int = Field(
        default=120, ge=0, le=3_600, description="How long a bot that moves may finish what it is saying."
    )
    bot_copy_hours: int = Field(
        default=24, ge=0, le=8_760, description="How long the copy of a bot's data from before a move is kept."
    )
    docker_host: str = Field(
        default="unix:///var/run/docker.sock", description="Address of the container engine: unix:// or tcp://."
    )
    wopr_installation: str = Field(
        default="",
        pattern=r"^([a-z0-9][a-z0-9_-]{0,62})?$",
        description="Name that marks our containers; empty: made from WOPR_HOME, so that two on one machine differ.",
    )
    bot_subnet: str = Field(
        default="", description="Network of the bots' containers, a /16 to /24; empty: one made from the installation."
    )
    bot_gateway_url: str = Field(
        default="",
        description="Address at which bots in containers reach the API; empty: API_PORT on their host. "
        "`http://gateway:PORT` is our proxy's container.",
    )
    bot_callers: str = Field(
        default="",
        description="Addresses and networks from which the API reaches bots of a Swarm, by comma; empty: its managers.",
    )
    bot_dns: str = Field(default="1.1.1.1,9.9.9.9", description="Name servers of bots in containers, by comma.")
    bot_firewall: Literal["auto", "host", "container", "off"] = Field(
        default="auto",
        description="Who fences bots in: host (this process), container, auto, or off (never with customers).",
    )
    bot_firewall_image: str = Field(
        default="ghcr.io/wopr-network/wopr-platform:latest",
        description="Image with iptables for that container; where the API runs in a container, its own image.",
    )
    bot_disk_reserve: int = Field(
        default=10,
        ge=0,
        le=99,
        description="Percent of the disk below which the bot that writes most is stopped (containers only).",
    )

    @cached_property
    def models_path(self) -> Path:
        return self.models_dir or self.wopr_home / "models"

    @property
    def installation(self) -> str:
        """The name that tells our containers from those of another installation on the same engine."""
        return self.wopr_installation or hashlib.sha256(str(self.wopr_home.resolve()).encode()).hexdigest()[:8]

    @property
    def internal_url(self) -> str:
        return (self.api_internal_url or self.api_url).rstrip("/")

    def require(self, name: str, feature: str) -> str:
        """The value of a setting that `feature` needs now; NotConfigured names both when it is missing."""
        value = getattr(self, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")
        if not text:
            raise NotConfigured(
                f"{feature} needs {name.upper()}, which is not set.",
                remedy=f"Set {name.upper()} in the environment (see docs/settings.md) and start again.",
            )
        return text


def load_settings(home: Path | None = None) -> Settings:
    """Settings from the environment, then from `run/up.env` and `secrets.env` under WOPR_HOME, then the defaults.

    NotConfigured names what can't be understood.
    """
    try:
        return _read(home)
    except ValidationError as error:
        # Not as its cause: pydantic's own words have the values, secrets among them.
        raise not_understood(error) from None


def _read(home: Path | None) -> Settings:
    settings = Settings() if home is None else Settings(wopr_home=home)
    home_path = settings.wopr_home.expanduser().resolve()
    files = [home_path / name for name in (SECRETS_FILE, RUNNING_FILE)]  # the later one wins
    overrides: dict[str, object] = {"wopr_home": home_path}
    # The files' folder is itself a setting, hence the second reading; the environment keeps precedence.
    return Settings(_env_file=[file for file in files if file.exists()], **overrides)  # type: ignore[call-arg, arg-type]


def not_understood(error: ValidationError) -> NotConfigured:
    """The error that names the first setting which can't be used, without the value of a secret."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    field = Settings.model_fields.get(name)
    told = "" if field is None or "SecretStr" in str(field.annotation) else f" ({first['input']!r})"
    return NotConfigured(
        f"{name.upper()}{told} can't be used: {first['msg'].removeprefix('Value error, ')}.",
        remedy=f"Correct {name.upper()} in the environment or in {SECRETS_FILE}; docs/settings.md says what it takes.",
    )


def variables() -> frozenset[str]:
    """The names of the environment variables that are settings."""
    aliases = {"BETTER_AUTH_URL", "API_URL"}  # the one setting with two names
    return frozenset(name.upper() for name in Settings.model_fields) | aliases
