"""`wopr completion`: what a shell needs to complete our commands, options and their values."""

from enum import StrEnum
from typing import Annotated

import typer

from wopr.cli.output import JsonOption, json_document, result

EXAMPLES = "Examples: wopr completion bash >> ~/.bashrc | wopr completion fish > ~/.config/fish/completions/wopr.fish"


class Shell(StrEnum):
    """The shells that we can complete in."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")],
    as_json: JsonOption = False,
) -> None:
    """Print the script with which a shell completes commands, options and their values.

    `wopr --install-completion` puts it where the shell that runs now finds it.
    """
    # Typer writes it only for the shell that it finds itself called from.
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    script = get_completion_script(prog_name="wopr", complete_var="_WOPR_COMPLETE", shell=shell.value)
    if as_json:
        json_document({"shell": shell.value, "script": script})
    else:
        result(script)
