"""`wopr status`: everything at a glance."""

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli.observing import observe_services
from wopr.cli.output import FAILED, JsonOption, bad, colored, good, json_document, json_line, say, table, warn

if TYPE_CHECKING:
    from wopr.core.settings import Settings

EXAMPLES = (
    "Examples: wopr status | wopr status --watch | wopr status --dir /root/wopr-platform --host root@api.example.com"
)
PROBE_SECONDS_MAX = 2.0
WATCH_SECONDS = 2.0


@dataclass(frozen=True)
class Row:
    """One service: `state` is ok, degraded or down."""

    name: str
    address: str
    state: str
    milliseconds: float
    detail: str


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every two seconds until Ctrl-C.")] = False,
    folder: Annotated[str, typer.Option("--dir", help="Show the installation in this folder of its host.")] = "",
    host: Annotated[str, typer.Option("--host", help="user@name[:port] over SSH; the installation is there.")] = "",
    name: Annotated[str, typer.Option("--name", help="Name of that installation on a shared engine.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Show whether API, UI, engines, database and stand-ins serve. Exit code 1 when something is down.

    With --dir or --host: the containers, slots, releases, nodes and incidents of what `wopr deploy` made there.
    """
    if folder or host:
        from wopr.cli.installation import DIR, Where
        from wopr.cli.status_installed import show

        show(Where(folder or DIR, host, name), watch=watch, as_json=as_json)
        return
    rows = asyncio.run(_rows())
    while watch:
        if as_json:
            json_line(_document(rows))
        else:
            say("\x1b[2J\x1b[H" if colored(sys.stderr) else "")
            _write(rows)
        time.sleep(WATCH_SECONDS)
        rows = asyncio.run(_rows())
    document = _document(rows)
    if as_json:
        json_document(document)
    else:
        _write(rows)
    observe_services(document["services"])
    if any(row.state == "down" for row in rows):
        raise typer.Exit(FAILED)


def _document(rows: list[Row]) -> dict[str, Any]:  # whatever json can write
    services = [{"name": r.name, "address": r.address, "state": r.state, "detail": r.detail} for r in rows]
    return {"ok": all(r.state == "ok" for r in rows), "services": services}


def _write(rows: list[Row]) -> None:
    paint = {"ok": good("ok"), "degraded": warn("degraded"), "down": bad("down")}
    cells = [
        (r.name, r.address, paint[r.state], f"{r.milliseconds:.0f} ms" if r.state != "down" else "", r.detail)
        for r in rows
    ]
    table(("service", "address", "state", "answer", "detail"), cells, "Nothing is configured.")
    if all(row.state == "down" for row in rows):
        say("Nothing runs here. Start everything with: wopr up")


async def _rows() -> list[Row]:
    from wopr.core.settings import load_settings

    settings = load_settings()
    engine = f"http://{settings.engine_host}"
    places = [
        ("api", settings.internal_url, "/ready"),
        ("ui", settings.ui_url, "/health"),
        ("llama", f"{engine}:{settings.llama_port}", "/health"),
        ("chatterbox", f"{engine}:{settings.chatterbox_port}", "/health"),
        ("whisper", f"{engine}:{settings.whisper_port}", "/health"),
        ("qwen", f"{engine}:{settings.qwen_port}", "/health"),
    ]
    stand_ins = (("stripe stand-in", settings.stripe_api_base), ("mail stand-in", settings.resend_api_base))
    places += [(name, base, "/health") for name, base in stand_ins if _is_local(base)]
    rows = await asyncio.gather(_database(settings), *(probe(name, base, path) for name, base, path in places))
    return list(rows)


def _is_local(address: str) -> bool:
    from urllib.parse import urlsplit

    return urlsplit(address).hostname in ("localhost", "127.0.0.1", "::1")


async def _database(settings: "Settings") -> Row:
    """Whether the database lets us in with what the settings say."""
    from urllib.parse import urlsplit

    from wopr.core.database_url import database_url
    from wopr.core.errors import Unavailable

    try:
        whole = database_url(settings)
        url = urlsplit(whole)
        address = f"{url.hostname}:{url.port or 5432}"
    except Unavailable as error:
        return Row("database", "", "down", 0.0, error.message)
    import asyncpg

    started = time.perf_counter()
    try:
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            connection = await asyncpg.connect(whole)
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return Row("database", address, "down", 0.0, str(error) or "no answer in time")
    return Row("database", address, "ok", (time.perf_counter() - started) * 1000, "")


async def probe(name: str, base: str, path: str) -> Row:
    """One plain GET; a client library would cost more than the whole command may take."""
    from urllib.parse import urlsplit

    url = urlsplit(base)
    started = time.perf_counter()
    try:
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            port = url.port or (443 if url.scheme == "https" else 80)
            reader, writer = await asyncio.open_connection(url.hostname, port, ssl=url.scheme == "https" or None)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n".encode())
                raw = await reader.read(16_384)
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return Row(name, base, "down", 0.0, str(error) or "no answer in time")
    head, _, body = raw.partition(b"\r\n\r\n")
    code = head.split(b" ")[1:2]
    state = "ok" if code == [b"200"] else "degraded"
    detail = "" if state == "ok" else body.decode(errors="replace").strip()[:120]
    return Row(name, base, state, (time.perf_counter() - started) * 1000, detail)
