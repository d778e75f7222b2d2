"""What a bot can be made of: the models, voices and sizes that there are, and the refusal of what there is not.

Models and voices are known by the machines that serve them; inference tells them through the composition root. What it
does not know (no machine has listed any, or an outside provider takes every name) is not checked. Only what somebody
says now is: a bot whose model was withdrawn keeps it until it is given another.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from wopr.billing.prices import load_prices
from wopr.core.errors import Invalid
from wopr.core.settings import Settings

LISTED_MAX = 20


@dataclass(frozen=True)
class Choices:
    """Names that exist. An empty list: not known. `more_voices` are other names by which voices may be asked for."""

    models: Sequence[str] = ()
    voices: Sequence[str] = ()
    more_voices: Sequence[str] = ()

    def voice_or_another(self, voice: str) -> str:
        """This default, or the first voice that there is."""
        return voice if not self.voices or voice in self.voices else self.voices[0]


NO_CHOICES = Choices()
FindChoices = Callable[[AsyncSession, Settings], Awaitable[Choices]]


async def know_nothing(_session: AsyncSession, _settings: Settings) -> Choices:
    """Where nobody tells what there is."""
    return NO_CHOICES


def refuse_unknown(
    choices: Choices, settings: Settings, *, model: str | None = None, voice: str | None = None, size: str | None = None
) -> None:
    """Invalid (422) for a name that is said and does not exist, with the list of those that do."""
    sheet = load_prices(settings.wopr_prices)
    if size and size not in sheet.bots:
        raise _unknown("size", size, list(sheet.bots))
    if voice and choices.voices and voice not in choices.voices and voice not in choices.more_voices:
        raise _unknown("voice", voice, choices.voices)
    if not model:
        return
    if (kind := sheet.model(model).kind) != "chat":
        raise Invalid(
            f"The model {model} can't converse: it is for {kind}.",
            code="wrong_model",
            remedy=f"Choose a model that answers, such as {settings.bot_model}.",
        )
    priced = [name for name, entry in sheet.models.items() if entry.kind == "chat" and not name.startswith("*")]
    if choices.models and model not in (settings.bot_model, *choices.models, *priced, *sheet.aliases):
        raise _unknown("model", model, choices.models)


def _unknown(what: str, name: str, known: Sequence[str]) -> Invalid:
    listed = ", ".join(known[:LISTED_MAX]) + (", …" if len(known) > LISTED_MAX else "")
    return Invalid(f"There is no {what} {name[:60]!r}.", code=f"unknown_{what}", remedy=f"Choose one of {listed}.")
