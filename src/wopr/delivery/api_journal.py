"""What the API journals in its volume, the incidents that it opens above all, comes into the installation's journal.

The deliverer does it every minute, and so does each `wopr` command that works on the installation or tells of it.
"""

import asyncio
import io
import tarfile

from wopr.delivery import commands
from wopr.delivery.errors import HostFailed
from wopr.delivery.hosts import Host
from wopr.delivery.place import Place
from wopr.ops.adoption import adopt
from wopr.ops.entry import JOURNAL_FILE
from wopr.ops.journal import Journal, JournalFailed

API_HOME = "/var/lib/wopr"  # WOPR_HOME in compose.yaml
COPY_SECONDS = 10.0


async def take_in(host: Host, place: Place, journal: Journal) -> int:
    """Take over what is new; how many entries. An engine that does not answer, or no API: none, and no error.

    Nothing is written where there is no journal yet: looking alone makes no installation.
    """
    if not journal.path.exists():
        return 0
    try:
        copy = commands.copy_from_api(place, f"{API_HOME}/{JOURNAL_FILE}")
        got = await host.run(copy, timeout=COPY_SECONDS)
        content = _unpacked(got.out) if got.ok else b""
        return await asyncio.to_thread(adopt, journal, content) if content else 0
    except (HostFailed, JournalFailed, OSError):
        return 0  # whoever asks wants something else, and the next one does it


def _unpacked(archive: bytes) -> bytes:
    """The one file of an archive; nothing when it holds none or is cut."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            found = tar.extractfile(tar.getmembers()[0])
            return found.read() if found else b""
    except (tarfile.TarError, IndexError, EOFError):
        return b""
