"""What customers may ask for: the models that nodes have listed, with the names and prices of the price sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wopr.billing.prices import PriceKind, Rates, load_prices
from wopr.inference.engines.speech import OPENAI_VOICES
from wopr.inference.nodes import Node
from wopr.inference.watchdog import known_voices, served_models

SERVICE_KINDS: Mapping[str, PriceKind] = {
    "llama": "chat",
    "qwen": "embedding",
    "chatterbox": "speech",
    "whisper": "transcription",
}


@dataclass(frozen=True)
class Offered:
    """One model: its name on the price sheet, or the node's where the sheet has none; further names; its price."""

    name: str
    kind: PriceKind
    available: bool
    aliases: tuple[str, ...]
    price: Rates


@dataclass(frozen=True)
class Names:
    """What may be asked for by name: chat models with their aliases, voices, OpenAI's names for voices."""

    chat_models: Sequence[str]
    voices: Sequence[str]
    more_voices: Sequence[str] = tuple(OPENAI_VOICES)


def offered_names(nodes: Sequence[Node], prices: Path | None) -> Names:
    """The names that customers may use; a list is empty while no node has listed any."""
    models = [model for model in offered_models(nodes, prices) if model.kind == "chat"]
    return Names([name for model in models for name in (model.name, *model.aliases)], known_voices(nodes))


def offered_models(nodes: Sequence[Node], prices: Path | None) -> list[Offered]:
    """Every model that some node has listed, by kind and name. `available`: a service that answers has it now."""
    sheet = load_prices(prices)
    available: dict[tuple[str, PriceKind], bool] = {}
    for (service, model), now in served_models(nodes).items():
        if service in SERVICE_KINDS:
            key = (sheet.aliases.get(model, model), SERVICE_KINDS[service])
            available[key] = available.get(key, False) or now
    return [
        Offered(
            name=name,
            kind=kind,
            available=now,
            aliases=tuple(sorted(alias for alias, meant in sheet.aliases.items() if meant == name)),
            price=sheet.model(name, kind).price,
        )
        for (name, kind), now in sorted(available.items(), key=lambda item: (item[0][1], item[0][0]))
    ]
