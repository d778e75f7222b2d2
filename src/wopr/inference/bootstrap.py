"""What a rented machine gets for its token: the files that make it a node, secrets among them.

They are fetched before the first report instead of standing in the user data: registry login, the services' key, the
secret for reports, which images and weights. The machine writes them as they are into a folder that only root reads.
"""

from collections.abc import Mapping

from wopr.core.errors import Invalid
from wopr.core.ids import NodeId
from wopr.core.settings import Settings
from wopr.inference.catalogue import RemoteFile, find_offer, offer_of_address
from wopr.inference.cloud_init import variables_file
from wopr.inference.download import SHA256
from wopr.inference.rented import Opened
from wopr.inference.weights import EMBEDDING_FILE, TEXT_FILE

UNKNOWN = "-"
GGUF = ".gguf"


def files(settings: Settings, opened: Opened) -> Mapping[str, str]:
    """The machine's files by name."""
    password = settings.registry_password.get_secret_value() if settings.registry_password else ""
    variables = {
        "NODE_API_KEY": opened.api_key,
        "LLAMA_IMAGE": settings.llama_image,
        "CHATTERBOX_IMAGE": settings.chatterbox_image,
        "WHISPER_IMAGE": settings.whisper_image,
        "GATE_IMAGE": settings.gate_image,
        "CONTEXT": str(settings.gpu_context),
        "FLASH_ATTN": settings.gpu_flash_attn,
        "REGISTRY_SERVER": settings.registry_server,
        "REGISTRY_USERNAME": settings.registry_username,
        "REGISTRY_PLAIN_HTTP": settings.registry_plain_http.replace(" ", ""),
    }
    made = {
        "node.env": variables_file(variables),
        "report.header": f"authorization: Bearer {opened.secret}\n",
        "gate.header": f"authorization: Bearer {opened.api_key}\n",
        "models": models(settings),
    }
    return made | ({"registry.password": password} if password and settings.registry_username else {})


def models(settings: Settings) -> str:
    """The weights of a node, one a line: SHA-256 (or `-`: what the publisher says), address, name on the machine."""
    chosen = (
        (settings.gpu_text_model, settings.gpu_text_model_sha256, TEXT_FILE),
        (settings.gpu_embedding_model, settings.gpu_embedding_model_sha256, EMBEDDING_FILE),
    )
    return "".join(f"{sha or UNKNOWN} {_file(name, sha).url} {target}\n" for name, sha, target in chosen)


def node_api_url(settings: Settings) -> str:
    """The address at which rented machines reach the API."""
    return (settings.node_api_url or settings.api_url).rstrip("/")


def check(settings: Settings) -> None:
    """Refuse settings with which no machine can become a node, before one is paid for. Invalid, NotFound."""
    files(settings, Opened(NodeId("check"), None, "", ""))


def _file(name: str, sha256: str) -> RemoteFile:
    """The one file of a model that is named as `wopr models pull` takes it."""
    if sha256 and not SHA256.fullmatch(sha256):
        raise Invalid(f"{sha256!r} is no SHA-256.", remedy="Write it with 64 hexadecimal digits, in small letters.")
    offer = offer_of_address(name) if "://" in name else find_offer(name)
    file = offer.files[-1]
    if not file.path.endswith(GGUF) or any(character.isspace() for character in file.url):
        raise Invalid(f"{name} is no GGUF, which llama.cpp needs.", remedy="Name a text or an embedding model.")
    return file
