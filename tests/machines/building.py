"""Images that stand for public ones, which can't be pulled on a bare machine: built from Debian packages, once.

Each is a folder of `images/`. Its recipe's hash is a label of the image, so that a change rebuilds it and what stands
on it, and nothing else does. The two that take long are kept as files in $WOPR_TEST_CACHE as well.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.machines.engine import Engine, EngineError, cache_folder, one_at_a_time

from wopr.emulators.digitalocean.image import FOLDER as MACHINE
from wopr.emulators.digitalocean.image import image_name

FOLDER = Path(__file__).parent / "images"
RECIPE_LABEL = "wopr.recipe"
TEST_LABEL = "wopr.test-image"
SUITE = "bookworm"
# What python:3.11-slim-bookworm brings and a minimal Debian lacks, and what wheels with native code link to.
SLIM_PACKAGES = ("python3", "python3-venv", "ca-certificates", "libgomp1", "libstdc++6", "netbase", "tzdata")
NOT_NEEDED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "var/log")
BOOTSTRAP_SECONDS = 600.0
CHECKOUT = Path(__file__).parent.parent.parent
THIRD_PARTIES = ("postgres", "caddy", "docker-cli")
REPOSITORY = "wopr-test"
BUILD_SECONDS = 900.0
# Images of earlier sources stay for a while: other runs may use them, and going back to them costs nothing.
IMAGES_KEPT = 3


@dataclass(frozen=True)
class Recipe:
    """An image: its tags in the engine, the recipe below it, and whether a file of it is kept."""

    tags: tuple[str, ...]
    parent: str = ""
    kept: bool = False


RECIPES = {
    "slim": Recipe(("wopr-test/slim:bookworm", "python:3.11-slim-bookworm"), kept=True),
    "base": Recipe(("wopr-test/base:bookworm",), "slim", kept=True),
    "docker-cli": Recipe(("docker:27-cli",), "base"),
    "dind": Recipe(("docker:27-dind",), "docker-cli"),
    "postgres": Recipe(("postgres:16-alpine",), "slim"),
    "caddy": Recipe(("caddy:2-alpine",), "slim"),
    "node": Recipe(("wopr-test/node:bookworm",), "slim"),
    "node-agent": Recipe(("wopr-test/node-agent:bookworm",), "slim"),
}


def ensure(engine: Engine, name: str) -> str:
    """Make the image unless it is there as its recipe wants it; its first tag."""
    recipe = RECIPES[name]
    if recipe.parent:
        ensure(engine, recipe.parent)
    wanted = recipe_hash(name)
    with one_at_a_time(name):
        if _made_from(engine, recipe.tags[0]) != wanted:
            _make(engine, name, recipe, wanted)
        for tag in recipe.tags[1:]:
            if _made_from(engine, tag) != wanted:
                engine.docker("tag", recipe.tags[0], tag)
    return recipe.tags[0]


def ours(engine: Engine, kind: str) -> str:
    """Build one of our images (platform or bot) through the command line; its name, which only these sources have."""
    ensure(engine, "slim")
    if kind == "platform":
        ensure(engine, "docker-cli")
    with one_at_a_time(f"ours-{kind}"), tempfile.TemporaryDirectory(prefix="wopr-home-") as home:
        command = [sys.executable, "-m", "wopr", "images", "build", f"--{kind}", "--json", "--source", str(CHECKOUT)]
        command += ["--repository", REPOSITORY, "--tag", "current"]
        environment = {**engine.environment, "WOPR_HOME": home}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=BUILD_SECONDS)
        if done.returncode != 0:
            raise EngineError(f"wopr images build ended with {done.returncode}:\n{done.stderr}")
        built = json.loads(done.stdout)["images"][0]
        name = built["references"][0].rpartition(":")[0]
        kept = f"{name}:inputs-{built['inputs'][:12]}"
        tags = engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}", name).stdout.split()
        earlier = [tag for tag in tags if tag not in (kept, f"{name}:current")]
        for old in earlier[IMAGES_KEPT - 1 :]:
            engine.docker("rmi", old, check=False)
    return kept


def machine(engine: Engine, base_image: str) -> str:
    """Build the image of the cloud's machines on this one; its name."""
    name = image_name(base_image)
    with one_at_a_time("machine"):
        if engine.docker("image", "inspect", name, check=False).returncode != 0:
            argument = f"BASE_IMAGE={base_image}"
            engine.docker("build", "--tag", name, "--build-arg", argument, str(MACHINE), seconds=BUILD_SECONDS)
    return name


def recipe_hash(name: str) -> str:
    """What the image is made from: its folder, its packages and everything below it."""
    recipe = RECIPES[name]
    digest = hashlib.sha256(recipe_hash(recipe.parent).encode() if recipe.parent else repr(SLIM_PACKAGES).encode())
    for path in sorted((FOLDER / name).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(FOLDER).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _make(engine: Engine, name: str, recipe: Recipe, wanted: str) -> None:
    kept = cache_folder() / f"{name}-{wanted}.tar"
    if recipe.kept and kept.exists():
        engine.docker("load", "--input", str(kept))
        if _made_from(engine, recipe.tags[0]) == wanted:
            return
    if recipe.parent:
        labels = ("--label", f"{RECIPE_LABEL}={wanted}", "--label", f"{TEST_LABEL}=1")
        engine.docker("build", "--tag", recipe.tags[0], *labels, str(FOLDER / name))
    else:
        _import_debian(engine, recipe.tags[0], wanted)
    if recipe.kept:
        for old in cache_folder().glob(f"{name}-*.tar"):
            old.unlink(missing_ok=True)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        engine.docker("save", "--output", str(unfinished), recipe.tags[0])
        unfinished.rename(kept)


def _import_debian(engine: Engine, tag: str, wanted: str) -> None:
    """A minimal Debian as the engine's image. debootstrap makes device nodes, and so wants root."""
    with tempfile.TemporaryDirectory(prefix="wopr-debian-", dir=cache_folder()) as folder:
        root = Path(folder) / "root"
        # It mounts /proc in there, which a kill would leave; a mount namespace takes it along.
        command = ["unshare", "--mount", "debootstrap", "--variant=minbase"]
        command += [f"--include={','.join(SLIM_PACKAGES)}", SUITE, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BOOTSTRAP_SECONDS)
        if done.returncode != 0:
            raise EngineError(f"debootstrap ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
        for unwanted in NOT_NEEDED:
            for path in (root / unwanted).iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        sources = (FOLDER / "slim" / "sources.list").read_text()
        (root / "etc/apt/sources.list").write_text(sources)
        shutil.copytree(FOLDER / "slim" / "etc", root / "etc", dirs_exist_ok=True)
        changes = [f"LABEL {RECIPE_LABEL}={wanted} {TEST_LABEL}=1", 'CMD ["python3"]']
        options = [part for change in changes for part in ("--change", change)]
        archive = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
        try:
            subprocess.run(
                ["docker", "import", *options, "-", tag],
                stdin=archive.stdout,
                check=True,
                capture_output=True,
                env=engine.environment,
            )
        finally:
            archive.communicate()


def _made_from(engine: Engine, tag: str) -> str:
    form = '{{index .Config.Labels "' + RECIPE_LABEL + '"}}'
    return engine.docker("image", "inspect", "--format", form, tag, check=False).stdout.strip()
