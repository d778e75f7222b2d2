"""`wopr nodes logs`: what a node's services wrote, or what its making told, read on the machine over SSH."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from wopr.cli import output
from wopr.cli.output import JsonOption, ProgressKind, ProgressOption
from wopr.inference.log_sources import LINES, LINES_MAX, Source


def logs(
    node_id: Annotated[str, typer.Argument(help="The node's id, such as gpu-1.")],
    source: Annotated[Source, typer.Argument(help="A service, or how the machine was made a node.")] = Source.MAKING,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=LINES_MAX, help="How many, from the end.")] = LINES,
    progress: ProgressOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Show the last lines that a service of a node wrote, or that its making told, oldest first."""
    with output.progress(progress, as_json=as_json).stage(node_id, f"logs of {source}", keep=False):
        said = asyncio.run(_read(node_id, source, lines))
    if as_json:
        output.json_document({"node": node_id, "source": source.value, "lines": said})
    elif said:
        output.result("\n".join(said))
    else:
        output.say(f"{source} of {node_id} wrote nothing yet.")


async def _read(node_id: str, source: Source, lines: int) -> Sequence[str]:
    from wopr.core.ids import NodeId
    from wopr.core.platform import build_platform
    from wopr.core.settings import load_settings
    from wopr.inference import errands, nodes

    platform = build_platform(load_settings())
    try:
        async with platform.db.begin() as session:
            node = await nodes.get(session, NodeId(node_id))
        return await errands.logs(platform, node, source.value, lines)
    finally:
        await platform.close()
