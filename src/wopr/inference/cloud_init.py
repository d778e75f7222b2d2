"""The user data of a rented machine: the template of `deploy/cloud-init`, filled in. Nothing in it stays secret.

What a cloud keeps as user data is readable on the machine for ever, by every process. So there is a token in it that
opens until the first report, and everything else is fetched with that.
"""

import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from wopr.core.errors import Invalid, Unavailable

CHECKOUT = Path(__file__).resolve().parents[3] / "deploy" / "cloud-init"
TEMPLATE = "node.yaml"
# Placeholder of the template, and the file that it stands for.
FILES = {"setup": "setup", "compose": "compose.yaml", "caddyfile": "Caddyfile", "service": "wopr-node.service"}
USER_DATA_BYTES_MAX = 64 * 1024
# What needs no quotes in a shell, in a file of variables, or for compose.
PLAIN = re.compile(r"[A-Za-z0-9._:/@+=,\[\]-]*")


@dataclass(frozen=True)
class First:
    """What a machine knows when it boots. `needs_gpu`: it is rented with one, so that none to be seen is a failure."""

    api_url: str
    node_id: str
    token: str
    needs_gpu: bool


def user_data(first: First) -> str:
    """The cloud-config of one machine. Invalid when a value can't stand in it."""
    variables = {
        "API_URL": first.api_url,
        "NODE_ID": first.node_id,
        "TOKEN": first.token,
        "NEEDS_GPU": "yes" if first.needs_gpu else "no",
    }
    # A string of JSON is one of YAML.
    values = {name: json.dumps(packaged(file)) for name, file in FILES.items()}
    text = Template(packaged(TEMPLATE)).substitute(first_env=json.dumps(variables_file(variables)), **values)
    if len(text.encode()) > USER_DATA_BYTES_MAX:
        raise Invalid("The cloud-init template is larger than a cloud takes.", remedy="Shorten deploy/cloud-init.")
    return text


def variables_file(variables: dict[str, str]) -> str:
    """NAME=value lines that a shell and compose read alike; Invalid for a value that would need quotes."""
    for name, value in variables.items():
        if not PLAIN.fullmatch(value):
            raise Invalid(
                f"{name} ({value!r}) can't be given to a node.", remedy="Use letters, digits and . _ : / @ + = , -"
            )
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def packaged(name: str) -> str:
    """A file of the template as this version ships it."""
    shipped = resources.files("wopr.inference").joinpath("machine", name)
    if shipped.is_file():
        return shipped.read_text(encoding="utf-8")
    path = CHECKOUT / name  # an editable installation has the checkout's own folder
    if not path.is_file():
        raise Unavailable(f"This installation of wopr lacks deploy/cloud-init/{name}.", remedy="Install wopr again.")
    return path.read_text(encoding="utf-8")
