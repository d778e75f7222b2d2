"""Options that several commands share, written once as a frozen dataclass: each field is an option of the command.

`@shared` stands under `@app.command(…)`. A parameter whose type is a dataclass is replaced by its fields in what Typer
sees, and handed to the command as one object; options that only some commands have stand in its subclasses.

Errors of a command on an installation name commands to paste: they get the options that say which one is meant.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from wopr.cli.installation import Where
from wopr.core.errors import WoprError

Returned = TypeVar("Returned")


def shared(command: Callable[..., Returned]) -> Callable[..., Returned]:
    """The command with the fields of its dataclasses as options. Every field needs a default."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    signature = inspect.signature(command)

    @functools.wraps(command)
    def with_groups(**given: Any) -> Returned:  # Any: whatever each option's type is
        made = {
            name: kind(**{field.name: given.pop(field.name) for field in fields(kind)}) for name, kind in groups.items()
        }
        try:
            return command(**given, **made)
        except WoprError as error:
            if where := next((group for group in made.values() if isinstance(group, Where)), None):
                error.remedy = where.pasted(error.remedy)
            raise

    own = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values() if p.name not in groups]
    more = [parameter for kind in groups.values() for parameter in _parameters(kind)]
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *more)]
    with_groups.__signature__ = signature.replace(parameters=keywords)  # type: ignore[attr-defined]
    with_groups.__annotations__ = {p.name: p.annotation for p in keywords} | {"return": signature.return_annotation}
    del with_groups.__dict__["__wrapped__"]  # or the command's own signature would be found behind it
    return with_groups


def _parameters(kind: type) -> list[inspect.Parameter]:
    """A keyword for each field of the dataclass."""
    hints = get_type_hints(kind, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name]) for f in fields(kind)]
