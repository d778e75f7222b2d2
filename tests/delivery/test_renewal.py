"""A certificate is renewed while customers are served: no request fails, no stream is cut, no connection is closed."""

import asyncio
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse
from tests.delivery.authority import Folder, self_signed
from tests.delivery.edge_load import STREAM_EVENTS, Load
from tests.live import missing
from tests.mortal import mortal
from tests.serving import served

from wopr.cloud import certificate as certificates
from wopr.core.postgres import free_port
from wopr.delivery.commands import BY_DNS

SHIPPED = Path(__file__).parents[2] / "deploy" / "Caddyfile"
UP_SECONDS = 60.0
STREAM_SECONDS = 6.0


@dataclass
class Edge:
    """Caddy with the shipped configuration for certificates that come as a file."""

    http: int
    https: int
    folder: Path

    def get(self, url: str, verify: ssl.SSLContext | bool = False) -> httpx.Response:
        """A request as if the name led here; nothing is followed."""
        scheme, _, rest = url.partition("://")
        name, _, path = rest.partition("/")
        port = self.https if scheme == "https" else self.http
        with httpx.Client(verify=verify) as client:
            more = {"sni_hostname": name}
            return client.get(f"{scheme}://127.0.0.1:{port}/{path}", headers={"host": name}, extensions=more)


@contextmanager
def caddy(folder: Path, upstream: str, *, by_dns: bool = True) -> Iterator[Edge]:
    """Debian's Caddy; of the shipped file only ports, upstreams and the place of the certificate are others."""
    program = shutil.which("caddy") or missing("caddy")
    made = Edge(free_port(), free_port(), folder)
    text = SHIPPED.read_text()
    for name in ("api-blue:3100 api-green:3100", "ui-blue:3000 ui-green:3000"):
        text = text.replace(name, upstream)
    for port in ("3103", "3100", "3101", "3000"):
        text = text.replace(f":{port}", f":{free_port()}")
    served_folder = folder / "certificates" / "served"
    served_folder.mkdir(parents=True, exist_ok=True)
    text = text.replace("/certificates\n", f"{served_folder}\n")
    options = f"{{\n\tadmin off\n\thttp_port {made.http}\n\thttps_port {made.https}\n"
    file = folder / "Caddyfile"
    file.write_text(options + text.partition("{\n")[2])
    chosen = BY_DNS if by_dns else {}
    around = {"WOPR_DOMAIN": "wopr.bot", "WOPR_SCHEME": "" if by_dns else "http://", "EDGE_PROXIES": "", **chosen}
    around |= {"XDG_DATA_HOME": str(folder / "data"), "XDG_CONFIG_HOME": str(folder / "config"), "HOME": str(folder)}
    with (folder / "caddy.log").open("wb") as log:
        command = [program, "run", "--config", str(file), "--adapter", "caddyfile"]
        with subprocess.Popen(mortal(command), stdout=log, stderr=log, env=around) as process:
            try:
                _wait(made, process)
                yield made
            finally:
                process.terminate()


def _wait(edge: Edge, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + UP_SECONDS
    while True:
        assert process.poll() is None, (edge.folder / "caddy.log").read_text()[-2000:]
        try:
            edge.get("http://other.test/")
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "Caddy does not answer"
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def upstream() -> Iterator[str]:
    """What stands behind Caddy: a short answer, and a stream of some seconds."""
    app = FastAPI()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            for number in range(STREAM_EVENTS):
                yield f"data: {number}\n\n"
                await asyncio.sleep(STREAM_SECONDS / STREAM_EVENTS)

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.get("/{path:path}")
    async def answer() -> PlainTextResponse:
        return PlainTextResponse("here")

    with served(app) as url:
        yield url.removeprefix("http://")


def plant(edge: Edge, *names: str) -> certificates.Certificate:
    """Another certificate in the place from which Caddy reads, replaced as the platform does."""
    made = self_signed(list(names), datetime.now(UTC) + timedelta(days=60))
    file = edge.folder / "certificates" / "served" / "certificate.pem"
    file.with_suffix(".new").write_bytes(made.key + made.certificate)
    file.with_suffix(".new").replace(file)
    return certificates.read(made.certificate)


async def shown(edge: Edge, name: str) -> certificates.Served:
    return await certificates.served(name, "127.0.0.1", edge.https)


async def test_the_file_is_shown_for_every_name_from_the_moment_it_is_there(tmp_path: Path, upstream: str) -> None:
    with caddy(tmp_path, upstream) as edge:
        assert (await shown(edge, "wopr.bot")).certificate is None
        for _ in range(2):
            there = plant(edge, "wopr.bot", "*.wopr.bot", "*.bots.wopr.bot")
            for name in ("wopr.bot", "api.wopr.bot", "app.wopr.bot", "ada.bots.wopr.bot"):
                seen = await shown(edge, name)
                assert seen.certificate is not None
                assert seen.certificate.serial == there.serial
                assert "self" in seen.error


async def test_plain_http_is_sent_to_https_for_our_names_only(tmp_path: Path, upstream: str) -> None:
    with caddy(tmp_path, upstream) as edge:
        plant(edge, "wopr.bot", "*.wopr.bot", "*.bots.wopr.bot")
        for name in ("wopr.bot", "api.wopr.bot", "app.wopr.bot", "ada.bots.wopr.bot"):
            sent = await asyncio.to_thread(edge.get, f"http://{name}/a?b=c")
            assert (sent.status_code, sent.headers["location"]) == (301, f"https://{name}/a?b=c")
            secure = await asyncio.to_thread(edge.get, f"https://{name}/static/a")
            assert (secure.status_code, secure.text) == (200, "here")
            assert secure.headers["strict-transport-security"]
        local = await asyncio.to_thread(edge.get, "http://192.168.0.7/")
        assert (local.status_code, local.text) == (200, "here")


async def test_without_https_nothing_is_asked_for_certificates(tmp_path: Path, upstream: str) -> None:
    with caddy(tmp_path, upstream, by_dns=False) as edge:
        assert (await asyncio.to_thread(edge.get, "http://wopr.bot/")).text == "here"
        assert (await shown(edge, "wopr.bot")).certificate is None


async def test_the_key_is_not_to_be_had_from_outside(tmp_path: Path, upstream: str) -> None:
    with caddy(tmp_path, upstream) as edge:
        plant(edge, "wopr.bot", "*.wopr.bot", "*.bots.wopr.bot")
        for name in ("wopr.bot", "api.wopr.bot", "127.0.0.1", "127.0.0.1:3103", "other.test"):
            for scheme in ("http", "https"):
                try:
                    got = await asyncio.to_thread(edge.get, f"{scheme}://{name}/certificate.pem")
                except httpx.HTTPError:
                    continue  # no certificate for such a name
                assert "PRIVATE KEY" not in got.text


async def test_a_renewal_under_load_loses_nothing(folder: Folder, upstream: str) -> None:
    assert folder.agent("fetch").returncode == 0
    before = folder.certificate()
    context = ssl.create_default_context(cafile=str(folder.authority.bundle))
    with caddy(folder.path, upstream) as edge:
        load = Load("api.wopr.bot", edge.https, context)
        running = asyncio.create_task(load.run(kept=8, fresh=2, streams=4))
        await load.until(lambda: load.seen.streams > 0)
        renewed = await asyncio.to_thread(folder.agent, "fetch")
        after, streams = folder.certificate(), load.seen.streams
        handshakes = load.seen.serials[after.serial]
        await load.until(lambda: load.seen.streams >= streams + 8)
        await load.until(lambda: load.seen.serials[after.serial] >= handshakes + 50)
        load.stop.set()
        seen = await running
    assert renewed.returncode == 0, renewed.stderr
    assert after.serial != before.serial
    assert set(seen.serials) == {before.serial, after.serial}
    assert (seen.failures, seen.cut) == ([], 0)
    print(f"{seen.answers} answers, {seen.handshakes} handshakes, {seen.streams} streams, nothing lost")
