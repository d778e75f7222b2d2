"""The same release over SSH: an empty folder on another machine becomes the platform, and the next release follows."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.delivery.hosting import ssh_machine
from tests.machines.engine import Engine
from tests.machines.installation import Installation, Load, fresh


@contextmanager
def reachable(home: Path) -> Iterator[int]:
    """This machine over SSH, for programs with this home folder; the port."""
    ready, port, loop = threading.Event(), 0, asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        nonlocal port
        async with ssh_machine(home / "server") as host:
            keys = home / ".ssh"
            keys.mkdir(mode=0o700)
            (keys / "id_ed25519").write_bytes((home / "server" / "id").read_bytes())
            (keys / "id_ed25519").chmod(0o600)
            (keys / "known_hosts").write_bytes((home / "server" / "known").read_bytes())
            port = host.port
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


@pytest.fixture
def site(engine: Engine, platform_image: str, third_party_images: object, tmp_path: Path) -> Iterator[Installation]:
    made = fresh(engine, platform_image)
    with reachable(tmp_path) as port:
        made.environment = {"HOME": str(tmp_path), "WOPR_HOME": str(tmp_path / "operator")}
        made.where = lambda: ("--dir", str(made.folder), "--name", made.name, "--host", f"root@127.0.0.1:{port}")  # type: ignore[method-assign]
        try:
            yield made
        finally:
            made.remove()


def test_a_platform_is_made_and_released_on_another_machine(site: Installation, tmp_path: Path) -> None:
    first = site.release(site.platform, *site.chosen("DRAIN_SECONDS=5", "BOT_RUNTIME=process"))
    assert (site.folder / ".env").stat().st_mode & 0o777 == 0o600
    with Load(site, threads=2) as load:
        second = site.release(site.derive())
        back = site.wopr("rollback", "--json", "--ready", "180")
    assert second["serving"] == first["serving"] + 1
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout)["to"] == first["serving"]
    assert load.failures == []
    journal = (tmp_path / "operator" / "journal.jsonl").read_text()
    assert f"root@127.0.0.1:{site.where()[-1].rpartition(':')[2]}" in journal
    assert "free" in site.wopr("lock", "show").stdout
