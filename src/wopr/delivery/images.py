"""Building and publishing our images: what is built is decided by pure functions as argument lists, then run.

An image's labels say what it was made from. One that was built here from the same inputs is not built again.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from wopr.core.errors import Invalid, NotConfigured, NotFound, UpstreamFailed
from wopr.delivery import image_context, image_packages
from wopr.delivery.image_engine import DockerCommand

Kind = Literal["platform", "bot"]
Command = tuple[str, ...]
# Wraps a part that takes long, so that the command line can tell of it.
Stage = Callable[[str], AbstractContextManager[object]]

BASE_IMAGE = "python:3.11-slim-bookworm"
DOCKER_CLI_IMAGE = "docker:27-cli"
REPOSITORY = "ghcr.io/wopr-network"
# The UI is the same program: its name is a second tag, so that the runbook's names all exist.
NAMES: Mapping[Kind, Sequence[str]] = {"platform": ("wopr-platform", "wopr-platform-ui"), "bot": ("wopr-bot",)}
DOCKERFILES: Mapping[Kind, str] = {"platform": "Dockerfile", "bot": "Dockerfile.bot"}
FILES: Mapping[Kind, Sequence[str]] = {"platform": image_context.PLATFORM_FILES, "bot": image_context.BOT_FILES}
LOCK = "uv.lock"
TOOLS_REPOSITORY = "wopr-tools"
INPUTS_LABEL = "wopr.inputs"
TEST_LABEL = "wopr.test-image"
OCI = "org.opencontainers.image"
# What the engine calls a machine, and uv's name of the same. glibc 2.36 is that of Debian 12.
PLATFORMS = {"amd64": "x86_64-manylinux_2_36", "arm64": "aarch64-manylinux_2_36"}
LOOPBACK = ("127.", "localhost")


@dataclass(frozen=True)
class Source:
    """A checkout: its folder and version; the commit that last touched an image's files, with `-dirty` when they differ
    from it, and that commit's time in seconds."""

    folder: Path
    version: str
    revision: str
    created: int


@dataclass(frozen=True)
class Request:
    """What to build and how to name it. `repository` is what stands before the image's own name."""

    kind: Kind
    tag: str = "latest"
    repository: str = REPOSITORY
    base_image: str = BASE_IMAGE
    docker_cli_image: str = DOCKER_CLI_IMAGE
    fresh: bool = False  # build even when an image with these inputs is there, and use no layer of an earlier build


@dataclass(frozen=True)
class Built:
    """An image in the engine. `made` is false when it was there already; `layers` are (what made it, bytes)."""

    kind: Kind
    references: Sequence[str]
    id: str
    bytes: int
    inputs: str
    revision: str
    made: bool
    layers: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Pushed:
    """A published image: its name with the tag, and with the digest that a release keeps."""

    reference: str
    digest: str


@dataclass(frozen=True)
class Credentials:
    """Who may publish."""

    server: str
    username: str
    password: str


def references(kind: Kind, repository: str, tag: str) -> Sequence[str]:
    """The names of an image with their tag."""
    if not tag or tag.strip() != tag or any(sign in tag for sign in "/:@ "):
        raise Invalid(f"{tag!r} is no tag of an image.", remedy="A tag is letters, digits, dots, dashes, underscores.")
    return [f"{repository.rstrip('/')}/{name}:{tag}" for name in NAMES[kind]]


def content_reference(request: Request, inputs: str) -> str:
    """The name that only an image of exactly these inputs has, by which a later build finds it again.

    Its label would not do: images that others derive from it, and the steps of an interrupted build, inherit that.
    """
    return references(request.kind, request.repository, f"inputs-{inputs[:12]}")[0]


def labels(source: Source, kind: Kind, inputs: str, base_image: str) -> Mapping[str, str]:
    """What an image says of itself (https://github.com/opencontainers/image-spec/blob/main/annotations.md)."""
    created = datetime.fromtimestamp(source.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        f"{OCI}.title": NAMES[kind][0],
        f"{OCI}.version": source.version,
        f"{OCI}.revision": source.revision,
        f"{OCI}.created": created,
        f"{OCI}.licenses": "MIT",
        f"{OCI}.base.name": base_image,
        INPUTS_LABEL: inputs,
    }


def tools_command(request: Request, tools: str) -> Command:
    """Build the programs below the image from the distribution's packages: the one step that may use the network."""
    options = ("--file", DOCKERFILES[request.kind], "--target", "tools", "--tag", tools)
    fresh = ("--no-cache",) if request.fresh else ()
    return ("build", *options, *fresh, *_arguments(request, request.base_image), "-")


def build_command(request: Request, tools: str, named: Mapping[str, str]) -> Command:
    """Build the image on its tools, without a network, reading the context from the standard input."""
    options = ["--file", DOCKERFILES[request.kind], "--target", request.kind, "--network", "none"]
    options += ["--no-cache"] if request.fresh else []
    for reference in references(request.kind, request.repository, request.tag):
        options += ["--tag", reference]
    for name, value in named.items():
        options += ["--label", f"{name}={value}"]
    return ("build", *options, *_arguments(request, tools), "-")


def read_source(folder: Path, kind: Kind, created: int | None = None) -> Source:
    """What a checkout says of the sources of one image: an image is as old as the last commit that touched it.

    Without git the revision is unknown and the time is `created` or 1980.
    """
    project = folder / "pyproject.toml"
    if not (folder / DOCKERFILES["platform"]).is_file() or not project.is_file():
        raise NotFound(
            f"{folder} is no checkout of WOPR: images are built from its sources.",
            remedy="Run this in the checkout, or name it with --source.",
        )
    version = str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    files = (*FILES[kind], LOCK)
    revision, _, committed = _git(folder, "log", "-1", "--format=%H %ct", "--", *files).partition(" ")
    if revision and _git(folder, "status", "--porcelain", "--", *files):
        revision += "-dirty"
    return Source(folder, version, revision or "unknown", created or int(committed or image_packages.FILE_TIME))


def build(docker: DockerCommand, source: Source, request: Request, stage: Stage) -> Built:
    """Build one image, or name the one that is there with the same inputs."""
    uv = find_uv()
    with stage(f"{request.kind}: programs"):
        base = _present(docker, request.base_image)
        cli = _present(docker, request.docker_cli_image) if request.kind == "platform" else ""
        tools = _tools(docker, source, request, (base, cli))
    with (source.folder / LOCK).open("rb") as file:
        layers = image_packages.groups(request.kind, tomllib.load(file))
    lines = {layer.name: image_packages.requirements(uv, source.folder, layer.packages) for layer in layers}
    more = {**lines, "tools": tools, "revision": source.revision, "created": str(source.created)}
    inputs = image_context.digest(source.folder, FILES[request.kind], more)
    names = references(request.kind, request.repository, request.tag)
    own = content_reference(request, inputs)
    there = "" if request.fresh else docker.ask("image", "inspect", "--format", "{{.Id}}", own)
    if there:
        for name in names:
            docker.do("tag", there, name)
        return describe(docker, request.kind, names, made=False)
    with tempfile.TemporaryDirectory(prefix="wopr-site-") as folder:
        site = Path(folder) / "site"
        with stage(f"{request.kind}: packages"):
            _install(uv, lines, site, _platform(docker))
        command = build_command(request, tools, labels(source, request.kind, inputs, request.base_image))
        with stage(f"{request.kind}: image"):
            write = partial(image_context.write_context, project=source.folder, names=FILES[request.kind], site=site)
            docker.build(command, write)
        docker.do("tag", names[0], own)
    return describe(docker, request.kind, names, made=True)


def describe(docker: DockerCommand, kind: Kind, names: Sequence[str], *, made: bool = False) -> Built:
    """What the engine has under the first of these names; NotFound when nothing."""
    found = docker.ask("image", "inspect", names[0])
    if found is None:
        raise NotFound(f"There is no image {names[0]} in the engine.", remedy=_building(kind, names[0]))
    image = json.loads(found)[0]
    history = docker.do("history", "--no-trunc", "--human=false", "--format", "{{json .}}", names[0])
    rows = [json.loads(line) for line in history.splitlines()]
    layers = [(str(row["CreatedBy"])[:120], int(row["Size"])) for row in reversed(rows) if int(row["Size"])]
    own = image["Config"]["Labels"] or {}
    return Built(
        kind=kind,
        references=names,
        id=image["Id"],
        bytes=int(image["Size"]),
        inputs=own.get(INPUTS_LABEL, ""),
        revision=own.get(f"{OCI}.revision", ""),
        made=made,
        layers=layers,
    )


def listing(docker: DockerCommand) -> Sequence[Mapping[str, Any]]:
    """Every image in the engine that was built here: name, id, size, version, revision, time of its sources."""
    lines = docker.do("images", "--filter", f"label={INPUTS_LABEL}", "--format", "{{json .}}").splitlines()
    rows = [row for line in lines if (row := json.loads(line))["Tag"] != "<none>"]
    found = []
    for row in rows:
        reference = f"{row['Repository']}:{row['Tag']}"
        image = json.loads(docker.do("image", "inspect", reference))[0]
        own = image["Config"]["Labels"]
        found.append(
            {
                "reference": reference,
                "id": image["Id"],
                "bytes": int(image["Size"]),
                "version": own.get(f"{OCI}.version", ""),
                "revision": own.get(f"{OCI}.revision", ""),
                "created": own.get(f"{OCI}.created", ""),
                "digests": image.get("RepoDigests") or [],
                "test": own.get(TEST_LABEL) == "1",
            }
        )
    return found


def push(built: Built, credentials: Credentials | None, stage: Stage) -> Sequence[Pushed]:
    """Publish an image under all its names. The credentials exist only in a folder that is gone afterwards.

    Without any, those count with which the user is logged in.
    """
    engine = DockerCommand()
    own = json.loads(engine.do("image", "inspect", built.references[0]))[0]["Config"]["Labels"] or {}
    if own.get(TEST_LABEL) == "1" and not built.references[0].startswith(LOOPBACK):
        raise Invalid(
            f"{built.references[0]} stands on a test image and must not be published.",
            remedy=f"On a machine that has the public ones: {_building(built.kind, built.references[0])}",
        )
    if credentials is None:
        return [_push_one(engine, reference, stage) for reference in built.references]
    with tempfile.TemporaryDirectory(prefix="wopr-docker-") as folder:
        docker = engine.with_config(Path(folder))
        with stage(f"log in to {credentials.server}"):
            login = ("login", credentials.server, "--username", credentials.username, "--password-stdin")
            docker.do(*login, input=credentials.password)
        return [_push_one(docker, reference, stage) for reference in built.references]


def find_uv() -> str:
    """uv of this environment, else of PATH; NotConfigured when there is none."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if not found:
        raise NotConfigured("Building images needs uv, which is not here.", remedy="make setup")
    return found


def _building(kind: Kind, reference: str) -> str:
    """The command that makes the image of this name."""
    name, _, tag = reference.rpartition(":")
    return f"wopr images build --{kind} --repository {name.rpartition('/')[0]} --tag {tag}"


def _arguments(request: Request, base: str) -> Command:
    given = {"BASE_IMAGE": base}
    if request.kind == "platform":
        given["DOCKER_CLI_IMAGE"] = request.docker_cli_image
    return tuple(part for name, value in given.items() for part in ("--build-arg", f"{name}={value}"))


def _present(docker: DockerCommand, image: str) -> str:
    """The id of an image that is needed, pulled when it is not in the engine."""
    found = docker.ask("image", "inspect", "--format", "{{.Id}}", image)
    if found:
        return found
    try:
        docker.do("pull", "--quiet", image)
    except UpstreamFailed as failed:
        raise NotFound(
            f"The image {image}, on which ours stands, is neither in the engine nor can it be pulled: {failed.message}",
            remedy="Name one that is there with --base-image or --docker-cli-image, or mend the network.",
        ) from failed
    return docker.do("image", "inspect", "--format", "{{.Id}}", image)


def _tools(docker: DockerCommand, source: Source, request: Request, below: Sequence[str]) -> str:
    """The image with the programs, made once for each base image and recipe."""
    recipe = (DOCKERFILES[request.kind], "deploy/images/install-tools")
    key = image_context.digest(source.folder, recipe, {str(i): image for i, image in enumerate(below)})
    tools = f"{TOOLS_REPOSITORY}:{request.kind}-{key[:16]}"
    if request.fresh or docker.ask("image", "inspect", "--format", "{{.Id}}", tools) is None:
        write = partial(image_context.write_context, project=source.folder, names=recipe, site=None)
        docker.build(tools_command(request, tools), write)
    return tools


def _install(uv: str, lines: Mapping[str, str], site: Path, platform: str) -> None:
    for name, listed in lines.items():
        try:
            image_packages.install(uv, listed, image_packages.placed(site, name), platform)
        except subprocess.CalledProcessError as failed:
            raise UpstreamFailed(
                f"The packages of the layer {name} could not be fetched: {failed.stderr.strip()}",
                remedy="Mend the network; a hash that differs means a file that is not the locked one.",
            ) from failed


def _platform(docker: DockerCommand) -> str:
    machine = docker.do("version", "--format", "{{.Server.Arch}}")
    if machine not in PLATFORMS:
        raise Invalid(f"There are no packages for {machine} machines.", remedy=f"Build on {' or '.join(PLATFORMS)}.")
    return PLATFORMS[machine]


def _push_one(docker: DockerCommand, reference: str, stage: Stage) -> Pushed:
    with stage(f"push {reference}"):
        docker.do("push", "--quiet", reference)
    listed = json.loads(docker.do("image", "inspect", "--format", "{{json .RepoDigests}}", reference))
    repository = reference.rpartition(":")[0]
    return Pushed(reference, next(str(digest) for digest in listed if digest.startswith(f"{repository}@")))


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
