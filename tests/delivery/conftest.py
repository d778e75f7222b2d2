"""What several tests of deliveries need."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.delivery.authority import TOKEN, Folder, authority, zone


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with zone(tmp_path) as names, authority(tmp_path / "pebble", names.server) as signs:
        made = Folder(tmp_path / "installation", names, signs)
        made.path.mkdir()
        made.set(
            WOPR_DOMAIN="wopr.bot",
            WOPR_TLS="dns",
            CLOUDFLARE_API_TOKEN=TOKEN,
            CLOUDFLARE_API_BASE=f"{names.url}/client/v4",
            DNS_SERVERS=names.server,
            PUBLIC_ADDRESS="127.0.0.1",
            ACME_DIRECTORY=signs.directory,
            ACME_EMAIL="ops@wopr.bot",
            ACME_CA_BUNDLE=str(signs.bundle),
        )
        yield made
