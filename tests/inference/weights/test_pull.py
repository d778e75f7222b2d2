"""`wopr models` against a local file server: resumed, checked, and in place only when whole."""

import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from wopr.cli.models import app
from wopr.core.errors import Conflict, Invalid, UpstreamFailed
from wopr.inference import download
from wopr.inference.catalogue import CATALOGUE, RemoteFile, offer_of_address
from wopr.inference.download import fetch, new_client

# A GGUF without a tensor and without a fact, and what it would weigh.
CONTENT = b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(range(256)) * 4096


@dataclass
class FileServer:
    """Serves one file with ranges, behind a redirect that names its SHA-256, as the publishers' servers do."""

    content: bytes = CONTENT
    break_after: list[int] = field(default_factory=list)  # for each request in turn: cut the connection here
    publish: bool = True
    sent_from: list[int] = field(default_factory=list)
    address: str = ""

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:16]}"'


class Handler(BaseHTTPRequestHandler):
    files: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/resolve/"):
            self._redirect()
        elif self.path.startswith("/blob/"):
            self._blob()
        else:
            self.send_error(404)

    def _redirect(self) -> None:
        self.send_response(302)
        self.send_header("location", self.path.replace("/resolve/", "/blob/"))
        if self.files.publish:
            self.send_header("x-linked-etag", f'"{hashlib.sha256(CONTENT).hexdigest()}"')
        self.send_header("content-length", "0")
        self.end_headers()

    def _blob(self) -> None:
        content, start = self.files.content, 0
        asked = self.headers.get("range")
        if asked and self.headers.get("if-range") == self.files.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("content-length", str(len(content) - start))
        self.send_header("etag", self.files.etag)
        self.end_headers()
        self.files.sent_from.append(start)
        end = self.files.break_after.pop(0) if self.files.break_after else len(content)
        self.wfile.write(content[start:end])
        if end < len(content):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def files() -> Iterator[FileServer]:
    files = FileServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"files": files}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    files.address = f"http://127.0.0.1:{server.server_port}"
    yield files
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "RETRY_SECONDS", 0)


def remote(files: FileServer, sha256: str | None = None) -> RemoteFile:
    return RemoteFile(f"{files.address}/resolve/m.gguf", "m.gguf", sha256)


def get(file: RemoteFile, folder: Path) -> download.Fetched:
    with new_client() as client:
        return fetch(file, folder, lambda _done, _total: None, client)


def test_a_file_arrives_whole_and_is_checked_against_what_the_server_published(
    files: FileServer, tmp_path: Path
) -> None:
    fetched = get(remote(files), tmp_path)
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.verified == "published"
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
    assert get(remote(files), tmp_path).fetched is False


def test_a_broken_connection_goes_on_where_it_stopped(files: FileServer, tmp_path: Path) -> None:
    files.break_after = [300_000, 700_000]
    assert get(remote(files), tmp_path).path.read_bytes() == CONTENT
    assert files.sent_from == [0, 300_000, 700_000]


def test_a_later_run_goes_on_too(files: FileServer, tmp_path: Path) -> None:
    files.break_after = [100_000 * n for n in range(1, 6)]
    with pytest.raises(UpstreamFailed, match="broke off"):
        get(remote(files), tmp_path)
    assert not (tmp_path / "m.gguf").exists()
    assert get(remote(files), tmp_path).path.read_bytes() == CONTENT
    assert files.sent_from[-1] == 500_000


def test_a_file_that_changed_meanwhile_is_fetched_anew(files: FileServer, tmp_path: Path) -> None:
    files.publish = False
    files.break_after = [100_000] * 1
    monkey = CONTENT[:24] + CONTENT[:23:-1]

    def change(done: int, _total: int | None) -> None:
        if done >= 100_000:
            files.content = monkey

    with new_client() as client:
        fetched = fetch(remote(files), tmp_path, change, client)
    assert fetched.path.read_bytes() == monkey
    assert files.sent_from == [0, 0]
    assert fetched.verified == "size"


@pytest.mark.parametrize("noted", [False, True], ids=["before its version is noted", "after its version is noted"])
def test_a_pull_that_is_killed_as_a_changed_file_begins_leaves_nothing_of_the_old_one_in_it(
    files: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: bool
) -> None:
    files.publish, files.break_after = False, [100_000 * n for n in range(1, 6)]
    with pytest.raises(UpstreamFailed, match="broke off"):
        get(remote(files), tmp_path)
    files.content = CONTENT[:24] + CONTENT[:23:-1]
    really = download._write_version

    def killed(part: Path, version: download._Version) -> None:
        if noted:
            really(part, version)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "_write_version", killed)
        with pytest.raises(KeyboardInterrupt):
            get(remote(files), tmp_path)
    assert get(remote(files), tmp_path).path.read_bytes() == files.content


def test_wrong_bytes_are_thrown_away(files: FileServer, tmp_path: Path) -> None:
    files.content = b"x" + CONTENT[1:]
    with pytest.raises(UpstreamFailed, match="SHA-256"):
        get(remote(files), tmp_path)
    with pytest.raises(UpstreamFailed, match="SHA-256"):
        get(remote(files, sha256="0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_page_instead_of_a_model_is_thrown_away(files: FileServer, tmp_path: Path) -> None:
    files.content, files.publish = b"<!doctype html><title>tiny.gguf</title>", False
    with pytest.raises(UpstreamFailed, match="is no GGUF model"):
        get(remote(files), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_a_second_pull_are_named(files: FileServer, tmp_path: Path) -> None:
    with pytest.raises(UpstreamFailed, match="404"):
        get(RemoteFile(f"{files.address}/nowhere.gguf", "m.gguf"), tmp_path)
    with download._only_one(tmp_path / "m.gguf.part"), pytest.raises(Conflict):
        get(remote(files), tmp_path)


def test_a_pull_that_got_nothing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda _seconds: None)
    with new_client() as client, pytest.raises(UpstreamFailed):
        fetch(RemoteFile("http://127.0.0.1:9/tiny.gguf", "tiny.gguf"), tmp_path, lambda *_: None, client)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["https://example.com:1:2/a.gguf", "https://[::1/a.gguf", "https://xn--a/a.gguf", "file:///a.gguf"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="is no address"):
        offer_of_address(url)


def test_every_offer_has_secure_addresses_and_its_deciding_file_last() -> None:
    for offer in CATALOGUE:
        assert all(file.url.startswith("https://") for file in offer.files)
        assert offer.files[-1].path.endswith((".gguf", ".onnx", "model.bin"))
        assert all(".." not in file.path for file in offer.files)
    assert offer_of_address("https://example.com/a/My%20Model.gguf?x=1").name == "My Model"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WOPR_HOME", str(tmp_path))
    monkeypatch.delenv("MODELS_DIR", raising=False)
    return tmp_path


def wopr(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_pull_list_and_rm_through_the_command(home: Path, files: FileServer) -> None:
    from tests.inference.engines.tiny import write_tiny_model

    files.publish = False
    files.content = write_tiny_model(home / "source.bin").read_bytes()
    address = f"{files.address}/resolve/tiny.gguf"
    assert "would fetch" in wopr("pull", address, "--dry-run").stdout
    digest = hashlib.sha256(files.content).hexdigest()
    pulled = wopr("pull", address, "--sha256", digest, "--json")
    assert pulled.exit_code == 0, pulled.output
    assert json.loads(pulled.stdout)["files"][0]["verified"] == "given"
    listed = json.loads(wopr("list", "--json").stdout)
    assert [(model["name"], model["kind"]) for model in listed["models"]] == [("tiny", "text")]
    assert "qwen2.5-0.5b" in [offer["name"] for offer in listed["available"]]
    assert wopr("rm", "tiny").exit_code == 2
    assert wopr("rm", "tiny", "--dry-run").exit_code == 0
    assert (home / "models" / "tiny.gguf").exists()
    assert wopr("rm", "tiny", "--yes").exit_code == 0
    assert not (home / "models" / "tiny.gguf").exists()


def test_plain_progress_is_a_line_for_each_tenth(home: Path, files: FileServer) -> None:
    pulled = wopr("pull", f"{files.address}/resolve/m.gguf", "--progress", "plain")
    assert "(100 %)" in pulled.stderr
    assert "\r" not in pulled.stderr
    assert wopr("pull", "x", "--progress", "loud").exit_code == 2
