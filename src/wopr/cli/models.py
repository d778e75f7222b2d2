"""`wopr models`: the model weights on this machine, and a short list of small open ones to pull."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli import output
from wopr.cli.output import (
    USAGE,
    DryRunOption,
    ExitCodeOption,
    JsonOption,
    ProgressKind,
    ProgressOption,
    YesOption,
    confirm,
    fail,
    json_document,
    nothing_to_do,
    result,
    say,
    table,
)

if TYPE_CHECKING:
    from pathlib import Path

    from wopr.inference.catalogue import Offer
    from wopr.inference.download import Fetched

app = typer.Typer(help="Model weights on this machine.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list", epilog="Example: wopr models list --json")
def list_(as_json: JsonOption = False) -> None:
    """List the models in the folder, and those that can be pulled."""
    from wopr.inference.catalogue import CATALOGUE
    from wopr.inference.weights import installed

    folder = _folder()
    present = installed(folder)
    places = {str(weights.path.relative_to(folder)) for weights in present}
    offers = [offer for offer in CATALOGUE if not any(_place(file.path) in places for file in offer.files)]
    if as_json:
        here = [{"name": w.name, "kind": w.kind, "path": str(w.path), "bytes": w.bytes} for w in present]
        json_document({"folder": str(folder), "models": here, "available": [_document(offer) for offer in offers]})
        return
    rows = [(w.name, w.kind, f"{w.bytes >> 20} MB", "here", "") for w in present]
    rows += [(o.name, o.kind, f"{o.megabytes} MB", "can be pulled", o.about) for o in offers]
    table(("model", "kind", "size", "state", "about"), rows, "There are no models.")


app.command("ls", hidden=True, epilog="Example: wopr models ls")(list_)


@app.command("pull", epilog="Example: wopr models pull qwen2.5-0.5b")
def pull(
    model: Annotated[str, typer.Argument(help="A name from `wopr models list`, or the address of a GGUF file.")],
    sha256: Annotated[str, typer.Option(help="SHA-256 that a file given by address must have.")] = "",
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model. Interrupted, it goes on where it stopped; a model that is there already is left as it is."""
    from wopr.core.settings import load_settings
    from wopr.inference.download import fetch, new_client
    from wopr.ops.journal import Journal

    stages = output.progress(progress, as_json=as_json)
    offer, folder = _offer(model, sha256), _folder()
    if dry_run:
        if as_json:
            json_document({"model": _document(offer), "folder": str(folder), "dry_run": True})
        else:
            result(f"would fetch {', '.join(file.url for file in offer.files)} to {folder}")
        return
    settings = load_settings()
    fetched = []
    with Journal(settings.wopr_home).operation("models.pull", model=offer.name) as operation, new_client() as client:
        for file in offer.files:
            with stages.stage("", file.path, keep=False) as stage:
                fetched.append(fetch(file, folder, stage.update, client))
            operation.step("fetched", file=file.path, sha256=fetched[-1].sha256, verified=fetched[-1].verified)
    if as_json:
        json_document({"model": offer.name, "files": [_fetched(item) for item in fetched]})
    else:
        for item in fetched:
            result(f"{item.path} {'fetched' if item.fetched else 'was there already'} ({_proof(item)})")
        say("Engines take it at their next start.")
    if not any(item.fetched for item in fetched):
        nothing_to_do(exit_code)


@app.command("rm", epilog="Example: wopr models rm qwen2.5-0.5b-instruct-q4_k_m --yes")
def rm(
    model: Annotated[str, typer.Argument(help="Name of a model that is here, as `wopr models list` writes it.")],
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a model from the folder. One that is gone already is fine."""
    from wopr.core.settings import load_settings
    from wopr.inference.weights import installed, remove_weights
    from wopr.ops.journal import Journal

    folder = _folder()
    found = next((weights for weights in installed(folder) if weights.name == model), None)
    if found is None:
        if as_json:
            json_document({"removed": None})
        else:
            say(f"nothing to do: there is no model {model} in {folder}; wopr models list shows those that there are")
        nothing_to_do(exit_code)
        return
    if not dry_run:
        confirm(f"Delete {found.path} ({found.bytes >> 20} MB)?", yes=yes)
        with Journal(load_settings().wopr_home).operation("models.rm", model=model):
            remove_weights(folder, model)
    if as_json:
        json_document({"removed": model, "path": str(found.path), "bytes": found.bytes, "dry_run": dry_run})
    else:
        result(f"{'would delete' if dry_run else 'deleted'} {found.path}")


for alias in ("remove", "delete"):
    app.command(alias, hidden=True, epilog=f"Example: wopr models {alias} NAME --yes")(rm)


def _folder() -> "Path":
    from wopr.core.settings import load_settings

    return load_settings().models_path.expanduser().resolve()


def _offer(model: str, sha256: str) -> "Offer":
    from wopr.inference.catalogue import find_offer, offer_of_address
    from wopr.inference.download import SHA256

    by_address = "://" in model
    if sha256 and not by_address:
        fail("--sha256 goes with the address of a file.", remedy="Leave it out, or give an address.", code=USAGE)
    if sha256 and not SHA256.fullmatch(sha256.lower()):
        fail("--sha256 is not a SHA-256.", remedy="Give 64 hexadecimal digits.", code=USAGE)
    return offer_of_address(model, sha256.lower() or None) if by_address else find_offer(model)


def _place(path: str) -> str:
    """The entry of the folder that a file belongs to."""
    return path.partition("/")[0]


def _document(offer: "Offer") -> dict[str, Any]:  # whatever json can write
    return {
        "name": offer.name,
        "kind": offer.kind,
        "megabytes": offer.megabytes,
        "licence": offer.licence,
        "about": offer.about,
        "files": [file.url for file in offer.files],
    }


def _fetched(item: "Fetched") -> dict[str, Any]:  # whatever json can write
    return {
        "path": str(item.path),
        "bytes": item.bytes,
        "sha256": item.sha256,
        "verified": item.verified,
        "fetched": item.fetched,
    }


def _proof(item: "Fetched") -> str:
    if item.verified == "size":
        return f"no checksum is published; its SHA-256 is {item.sha256}"
    return f"SHA-256 as {item.verified}"
