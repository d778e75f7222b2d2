"""`wopr images`: build the platform's and the bots' images from this checkout, list them, publish them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli import output
from wopr.cli.options import shared
from wopr.cli.output import DryRunOption, ExitCodeOption, JsonOption, ProgressKind, ProgressOption

if TYPE_CHECKING:
    from wopr.delivery.images import Built, Credentials, Kind, Request, Source

app = typer.Typer(
    help="Images of the platform and the bots: build, list, publish.", no_args_is_help=True, rich_markup_mode=None
)

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Chosen:
    """Which images, and how they are named."""

    platform: Annotated[bool, typer.Option("--platform", help="Only the platform's image (API, UI, engines).")] = False
    bot: Annotated[bool, typer.Option("--bot", help="Only the bots' image.")] = False
    tag: Annotated[str, typer.Option(help="Tag of the images.")] = "latest"
    repository: Annotated[
        str, typer.Option(help="What stands before the images' names, such as `127.0.0.1:5000/ours`.")
    ] = "ghcr.io/wopr-network"

    @property
    def kinds(self) -> "Sequence[Kind]":
        """Both, unless one is asked for alone."""
        if self.platform == self.bot:
            return ("platform", "bot")
        return ("platform",) if self.platform else ("bot",)


@dataclass(frozen=True)
class Inputs:
    """What is built from."""

    base_image: Annotated[str, typer.Option(help="Image with Python 3.11 on which ours stand.")] = (
        "python:3.11-slim-bookworm"
    )
    docker_cli_image: Annotated[str, typer.Option(help="Image that the Docker client and compose are taken from.")] = (
        "docker:27-cli"
    )
    source: Annotated[Path, typer.Option(help="Checkout to build from.")] = Path()
    created: Annotated[
        int | None,
        typer.Option(envvar="SOURCE_DATE_EPOCH", help="Time in the labels, in seconds; else that of the commit."),
    ] = None
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Use nothing of earlier builds; takes the distribution's updates.")
    ] = False


@app.command("build", epilog="Example: wopr images build --tag local")
@shared
def build(
    chosen: Chosen,
    inputs: Inputs,
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build the images from this checkout. An image with the same inputs that is there already is named anew only.

    The packages are those of uv.lock, fetched on this machine with their hashes checked; the build has no network.
    Only the programs beside Python come from the distribution, once for each base image.
    """
    from wopr.core.settings import load_settings
    from wopr.delivery import images
    from wopr.delivery.image_engine import DockerCommand
    from wopr.ops.journal import Journal

    checkout = inputs.source.expanduser().resolve()
    plan = [(images.read_source(checkout, k, inputs.created), _request(k, chosen, inputs)) for k in chosen.kinds]
    if dry_run:
        _tell_plan(plan, as_json=as_json)
        return
    stages = output.progress(progress, as_json=as_json)
    built = []
    names = [reference for kind in chosen.kinds for reference in images.references(kind, *_named(chosen))]
    journal = Journal(load_settings().wopr_home)
    with journal.operation("images.build", images=names, base_image=inputs.base_image) as operation:
        for source, request in plan:
            made = images.build(DockerCommand(), source, request, _telling(stages))
            about = {"id": made.id, "bytes": made.bytes, "inputs": made.inputs, "revision": made.revision}
            operation.step(request.kind, made=made.made, **about)
            built.append(made)
    _tell_built(built, as_json=as_json)
    if not any(made.made for made in built):
        output.nothing_to_do(exit_code)


@app.command("push", epilog="Example: wopr images push --tag latest")
@shared
def push(
    chosen: Chosen,
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Publish images that were built here, and say the digests that a release keeps.

    REGISTRY_SERVER, REGISTRY_USERNAME and REGISTRY_PASSWORD let in where they are set for the registry of --repository;
    else the logins of the docker command count. The password is kept nowhere.
    """
    from wopr.core.settings import load_settings
    from wopr.delivery import images
    from wopr.delivery.image_engine import DockerCommand
    from wopr.ops.journal import Journal

    settings = load_settings()
    docker = DockerCommand()
    ready = [images.describe(docker, kind, images.references(kind, *_named(chosen))) for kind in chosen.kinds]
    if dry_run:
        names = [reference for built in ready for reference in built.references]
        if as_json:
            output.json_document({"would_push": names, "dry_run": True})
        else:
            output.result("\n".join(f"would push {name}" for name in names))
        return
    stages = output.progress(progress, as_json=as_json)
    credentials = _credentials(chosen.repository)
    pushed = []
    with Journal(settings.wopr_home).operation("images.push", repository=chosen.repository) as operation:
        for built in ready:
            for one in images.push(built, credentials, _telling(stages)):
                operation.step("pushed", reference=one.reference, digest=one.digest, revision=built.revision)
                pushed.append(one)
    if as_json:
        output.json_document({"pushed": [asdict(one) for one in pushed]})
    else:
        output.table(("image", "digest"), [(one.reference, one.digest) for one in pushed], "Nothing was pushed.")


@app.command("list", epilog="Example: wopr images list --json")
def list_(as_json: JsonOption = False) -> None:
    """List the images in the engine that were built by `wopr images build`."""
    from wopr.delivery import images
    from wopr.delivery.image_engine import DockerCommand

    found = images.listing(DockerCommand())
    if as_json:
        output.json_document({"images": found})
        return
    rows = [
        (
            image["reference"],
            f"{image['bytes'] / MEGABYTE:.0f} MB",
            image["version"],
            image["revision"][:12] + ("-dirty" if image["revision"].endswith("-dirty") else ""),
            image["created"],
            "stands on a test image" if image["test"] else "",
        )
        for image in found
    ]
    output.table(
        ("image", "size", "version", "revision", "of", ""), rows, "No image was built here yet: wopr images build"
    )


app.command("ls", hidden=True, epilog="Example: wopr images ls")(list_)


def _request(kind: "Kind", chosen: Chosen, inputs: Inputs) -> "Request":
    from wopr.delivery.images import Request

    return Request(
        kind=kind,
        tag=chosen.tag,
        repository=chosen.repository,
        base_image=inputs.base_image,
        docker_cli_image=inputs.docker_cli_image,
        fresh=inputs.fresh,
    )


def _named(chosen: Chosen) -> tuple[str, str]:
    return chosen.repository, chosen.tag


def _telling(stages: Any) -> Callable[[str], AbstractContextManager[object]]:  # Any: output.Progress, loaded late
    return lambda what: stages.stage("", what)


def _credentials(repository: str) -> "Credentials | None":
    """What the settings know of the registry that a repository belongs to; None: nothing."""
    from wopr.core.settings import load_settings
    from wopr.delivery.images import Credentials

    settings = load_settings()
    server = repository.partition("/")[0]
    if server != settings.registry_server or not (settings.registry_username or settings.registry_password):
        return None
    feature = f"Publishing to {server}"
    return Credentials(
        server, settings.require("registry_username", feature), settings.require("registry_password", feature)
    )


def _tell_plan(plan: "Sequence[tuple[Source, Request]]", *, as_json: bool) -> None:
    from wopr.delivery import images

    plans = []
    for source, request in plan:
        labels = images.labels(source, request.kind, "…", request.base_image)
        command = images.build_command(request, f"{images.TOOLS_REPOSITORY}:{request.kind}-…", labels)
        plans.append({"image": request.kind, "revision": source.revision, "command": ["docker", *command]})
    if as_json:
        output.json_document({"would_build": plans, "dry_run": True})
    else:
        output.result("\n".join(f"would run {' '.join(map(str, plan['command']))}" for plan in plans))


def _tell_built(built: "Sequence[Built]", *, as_json: bool) -> None:
    if as_json:
        output.json_document({"images": [asdict(made) for made in built]})
        return
    for made in built:
        for reference in made.references:
            how = "built" if made.made else "was there already"
            output.result(f"{reference} {how}: {made.bytes / MEGABYTE:.0f} MB, {made.id[:19]}")
