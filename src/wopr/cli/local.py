"""`wopr local`: the two machines of the local topology on this host, by the runbook's own commands.

A machine's boot is its own affair; what is done here is to bring in the images that only this host has, to wait, and to
tell what is going on.
"""

import asyncio
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wopr.cli import output
from wopr.cli.local_cloud import cloud
from wopr.cli.options import shared
from wopr.cli.output import DryRunOption, ExitCodeOption, JsonOption, ProgressKind, ProgressOption, YesOption

if TYPE_CHECKING:
    from wopr.cli.progress import Progress
    from wopr.cli.status import Row
    from wopr.delivery.topology import Topology

app = typer.Typer(
    help="Two machines on this host, a VPS and a GPU node with own engines; and the cloud in a box for a shell.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("cloud", epilog="Examples: wopr local cloud | wopr local cloud --port 4201 --json")(cloud)
REGISTERED_SECONDS = 120.0
ENGINE_SECONDS = 150.0


@dataclass(frozen=True)
class Machines:
    """Which machines are meant."""

    dir: Annotated[
        Path | None, typer.Option("--dir", help="Folder of their compose file; default: deploy/local of the checkout.")
    ] = None

    def topology(self) -> "Topology":
        from wopr.delivery.topology import FOLDER, Topology

        return Topology((self.dir or FOLDER).expanduser().resolve())


@app.command("up", epilog="Examples: wopr local up | wopr local up --models ~/models --json")
@shared
def up(
    machines: Machines,
    models: Annotated[
        Path | None, typer.Option(help="Folder with llama.gguf and qwen2-0_5b-instruct-q8_0.gguf; is remembered.")
    ] = None,
    patience: Annotated[float, typer.Option(min=1, help="Seconds for a machine to start everything in it.")] = 900.0,
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Start both machines and wait until the platform and its node serve.

    Images that only this host has are brought in. The first boot makes a release, which takes a minute or two; a later
    one starts what is there. Run it again after `wopr images build --tag local`: the new image is loaded and released.
    """
    topology = machines.topology()
    if models is not None and not dry_run:
        topology.choose("MODELS_DIR", str(models.expanduser().resolve()))
    topology.check()
    was_up = all(topology.state(machine) == "healthy" for machine in _names())
    if dry_run:
        _tell_plan(topology, was_up=was_up, as_json=as_json)
        return
    begun = time.monotonic()
    stages = output.progress(progress, as_json=as_json)
    topology.learn_privileges()
    with stages.stage("", "machines"):
        topology.compose("up", "-d")
    with ThreadPoolExecutor(len(_names())) as pool:
        boots = [pool.submit(_boot, topology, machine, patience, stages) for machine in _names()]
        brought = [boot.result() for boot in boots]
    nodes = _registered(topology, stages)
    seconds = round(time.monotonic() - begun, 1)
    first = any(boot["first"] for boot in brought)
    loaded = {boot["machine"]: boot["loaded"] for boot in brought}
    _tell_up(topology, {"first_boot": first, "seconds": seconds, "loaded": loaded, "nodes": nodes}, as_json=as_json)
    if was_up and not any(loaded.values()):
        output.nothing_to_do(exit_code)


@app.command("down", epilog="Examples: wopr local down | wopr local down --wipe --yes")
@shared
def down(
    machines: Machines,
    wipe: Annotated[bool, typer.Option("--wipe", help="Destroy the volumes too: database, bots, images.")] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    progress: ProgressOption = ProgressKind.AUTO,
    exit_code: ExitCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Stop and remove both machines. Their volumes stay, and `wopr local up` goes on with them, unless --wipe."""
    topology = machines.topology()
    there = [machine for machine in _names() if topology.state(machine) != "absent"]
    volumes = topology.volumes()
    fate = "removed" if wipe else "kept"
    document = {"dry_run": dry_run, "wipe": wipe, "machines": there, "volumes": {fate: volumes}}
    if not there and not (wipe and volumes):
        _tell(document, "nothing to do: there are no machines", as_json=as_json)
        output.nothing_to_do(exit_code)
        return
    if dry_run:
        _tell(document, f"would remove {', '.join([*there, *(volumes if wipe else [])])}", as_json=as_json)
        return
    if wipe:
        output.say(f"DESTROYED, and nothing brings it back: {', '.join(volumes)}")
    question = "Destroy all of this?" if wipe else f"Stop {' and '.join(there)}? Their data stay."
    output.confirm(question, yes=yes)
    with output.progress(progress, as_json=as_json).stage("", "machines end in order"):
        topology.compose("down", *(("--volumes",) if wipe else ()))
    _tell(document, f"removed {', '.join(there)}; volumes {fate}: {', '.join(volumes) or 'none'}", as_json=as_json)


@app.command("status", epilog="Example: wopr local status --json")
@shared
def status(machines: Machines, as_json: JsonOption = False) -> None:
    """Show both machines, what runs inside, what answers, and the node. Exit code 1 when something is down."""
    topology = machines.topology()
    document = _observed(topology)
    if as_json:
        output.json_document(document)
    else:
        _write_status(document)
    if not document["ok"]:
        raise typer.Exit(output.FAILED)


@app.command("logs", epilog="Examples: wopr local logs | wopr local logs wopr-vps-watchtower --follow")
@shared
def logs(
    machines: Machines,
    name: Annotated[str, typer.Argument(help="A machine, or a container inside one.")] = "wopr-vps",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    tail: Annotated[int, typer.Option(min=0, help="How many lines of what was.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Show what a machine or a container inside it writes."""
    topology = machines.topology()
    topology.check_docker()
    inside: tuple[str, ...] = ()
    if name not in _names():
        found = [machine for machine in _names() if name in (one["name"] for one in topology.containers(machine))]
        if not found:
            output.fail(f"Neither machine has a container {name}.", remedy="wopr local status")
        inside = ("exec", found[0], "docker")
    words = topology.docker.line(*inside, "logs", "--tail", str(tail), *(("--follow",) if follow else ()), name)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if as_json:
                output.json_line({"name": name, "line": line.rstrip("\n")})
            else:
                output.result(line.rstrip("\n"))
    finally:
        process.kill()
        process.wait()


@app.command("seed", epilog="Example: wopr local seed")
@shared
def seed(machines: Machines, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Register the GPU machine by hand, as the runbook's seeder does. It registers itself; this repairs its row."""
    topology = machines.topology()
    said = "would register wopr-gpu" if dry_run else topology.seed()
    _tell({"dry_run": dry_run, "nodes": topology.nodes()}, said, as_json=as_json)


def _names() -> tuple[str, ...]:
    from wopr.delivery.topology import MACHINES

    return MACHINES


def _boot(topology: "Topology", machine: str, patience: float, stages: "Progress") -> dict[str, Any]:
    """Follow one machine until everything in it is started; whether it was its first time, and what it was given."""
    from wopr.delivery.topology import VPS

    with stages.stage(machine, "engine"):
        topology.wait(machine, lambda: topology.has_engine(machine), "its engine", ENGINE_SECONDS)
    first = machine == VPS and topology.is_new()
    lacking = topology.lacking(machine)
    if lacking:
        with stages.stage(machine, "images") as loading:
            topology.load(machine, lacking, loading.update)
            loading.done(", ".join(lacking))
    with stages.stage(machine, "first boot" if first else "boot"):
        topology.wait(machine, lambda: topology.state(machine) == "healthy", "its boot", patience)
    if lacking and machine == VPS and not first:
        with stages.stage(machine, "release"):
            topology.release_built(patience)
    return {"machine": machine, "first": first, "loaded": lacking}


def _registered(topology: "Topology", stages: "Progress") -> list[dict[str, Any]]:
    """Wait until the node serves in the eyes of the platform; the nodes."""
    from wopr.delivery.topology import GPU

    def serves() -> bool:
        return any(_is_well(node) for node in topology.nodes())

    with stages.stage("", "node serves"):
        topology.wait(GPU, serves, "its registration", REGISTERED_SECONDS)
    return topology.nodes()


def _tell_plan(topology: "Topology", *, was_up: bool, as_json: bool) -> None:
    images = {machine: list(named) for machine, named in topology.images().items()}
    here = {image: topology.image_id(image) is not None for named in images.values() for image in named}
    words = "both machines run already" if was_up else f"would start {' and '.join(_names())}"
    _tell({"dry_run": True, "running": was_up, "images": images, "on_this_host": here}, words, as_json=as_json)
    if not as_json:
        for image, is_here in sorted(here.items()):
            output.result(f"  {image}: {'from this host' if is_here else 'pulled by the machine'}")


def _tell_up(topology: "Topology", document: dict[str, Any], *, as_json: bool) -> None:
    from wopr.delivery.topology import API_PORT, HTTP_PORT, UI_PORT, VPS

    addresses = {
        "pages": topology.address(VPS, HTTP_PORT),
        "ui": topology.address(VPS, UI_PORT),
        "api": topology.address(VPS, API_PORT),
    }
    boot = "first boot" if document["first_boot"] else "boot"
    words = f"wopr-vps and wopr-gpu serve: {addresses['pages']} ({boot}, {document['seconds']:.1f} s)"
    _tell({**document, "addresses": addresses}, words, as_json=as_json)


def _observed(topology: "Topology") -> dict[str, Any]:
    """Everything about the two machines; `ok` when customers and bots find what they need."""
    from wopr.delivery.topology import API_PORT, GPU, HTTP_PORT, SERVICES, VPS

    ports = {
        "api": (VPS, API_PORT),
        "pages": (VPS, HTTP_PORT),
        **{name: (GPU, port) for name, port in SERVICES.items()},
    }
    machines = [
        {"name": machine, "state": topology.state(machine), "containers": topology.containers(machine)}
        for machine in _names()
    ]
    asked = [(name, topology.address(machine, port)) for name, (machine, port) in ports.items()]
    rows = asyncio.run(_answers(asked))
    answers = [{"name": row.name, "address": row.address, "ok": row.state == "ok"} for row in rows]
    nodes = topology.nodes()
    well = any(_is_well(node) for node in nodes)
    ok = well and all(m["state"] == "healthy" for m in machines) and all(answer["ok"] for answer in answers)
    return {"ok": ok, "machines": machines, "answers": answers, "nodes": nodes}


def _is_well(node: dict[str, Any]) -> bool:
    return node["status"] == "active" and all(node["service_health"].values())


async def _answers(asked: Sequence[tuple[str, str]]) -> list["Row"]:
    """What each address says of its health; one that is not published is down."""
    from wopr.cli.status import Row, probe

    async def one(name: str, address: str) -> Row:
        return await probe(name, address, "/health") if address else Row(name, "", "down", 0.0, "not published")

    return list(await asyncio.gather(*(one(name, address) for name, address in asked)))


def _write_status(document: dict[str, Any]) -> None:
    paint = {True: output.good("ok"), False: output.bad("down")}
    rows = []
    for machine in document["machines"]:
        rows.append((machine["name"], machine["state"], ""))
        rows += [(f"  {one['name']}", one["status"], one["image"]) for one in machine["containers"]]
    output.table(("machine", "state", "image"), rows, "")
    output.result("")
    for answer in document["answers"]:
        output.result(f"{answer['name']:<10}  {paint[answer['ok']]}  {answer['address'] or 'not published'}")
    for node in document["nodes"]:
        services = ", ".join(f"{name} {'ok' if up else 'down'}" for name, up in sorted(node["service_health"].items()))
        output.result(f"node        {node['id']} ({node['host']}) {node['status']}: {services}")
    if all(machine["state"] == "absent" for machine in document["machines"]):
        output.say("Nothing runs here. Start both machines with: wopr local up")


def _tell(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        output.json_document(document)
    else:
        output.result(text)
