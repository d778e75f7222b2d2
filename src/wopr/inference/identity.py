"""Who this installation is at the cloud: the name that its machines carry, and the SSH key that opens them.

It lives in the database, beside the rows that it marks as ours: two installations that share an account never take
each other's machines for their own, even when their settings are the same.
"""

import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from wopr.core.settings import Settings
from wopr.core.vault import Vault
from wopr.inference.models import CloudIdentity

FEATURE = "Renting machines"
ONLY_ROW = 1
CONTEXT = b"cloud_identity 1"
SUFFIX_BYTES = 2


@dataclass(frozen=True)
class Identity:
    """The installation's name at the cloud, and its key in OpenSSH's formats."""

    name: str
    public_key: str
    private_key: str = field(repr=False)

    @property
    def tag(self) -> str:
        """What every machine of ours carries."""
        return f"wopr:{self.name}"

    @property
    def prefix(self) -> str:
        """How the name of every machine of ours begins."""
        return f"wopr-{self.name}-"

    def machine_name(self, node_id: str) -> str:
        """The name of a node's machine."""
        return self.prefix + node_id


async def ensure_identity(session: AsyncSession, settings: Settings) -> Identity:
    """The identity, made at the first call and the same ever after. NotConfigured without PLATFORM_SECRET."""
    vault = _vault(settings)
    row = await session.get(CloudIdentity, ONLY_ROW)
    if row is None:
        private = Ed25519PrivateKey.generate()
        secret = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
        public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        # A machine's name is a host's name, which knows no underscore.
        name = f"{settings.installation.replace('_', '-')[:30].strip('-')}-{secrets.token_hex(SUFFIX_BYTES)}"
        statement = insert(CloudIdentity).values(
            id=ONLY_ROW, name=name, public_key=f"{public} wopr-{name}", private_key=vault.seal(secret, CONTEXT)
        )
        await session.execute(statement.on_conflict_do_nothing())
        row = await session.get_one(CloudIdentity, ONLY_ROW)
    return Identity(row.name, row.public_key, vault.open(row.private_key, CONTEXT))


def _vault(settings: Settings) -> Vault:
    return Vault(settings.require("platform_secret", FEATURE), "wopr cloud identity")
