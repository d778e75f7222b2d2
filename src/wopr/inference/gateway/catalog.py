"""Which backend serves which model under which name: the index over what the backends told.

A model may be asked by its own name or by an alias of the price sheet; a backend may know it by either. What the client
asked for is translated for the backend that is chosen.
"""

from collections.abc import Sequence

from wopr.billing.prices import ModelPrice, PriceKind, PriceSheet
from wopr.core.errors import NotFound
from wopr.inference.gateway.errors import BadParameter
from wopr.inference.nodes import Backend
from wopr.inference.routing import Target

SERVICE_KINDS: dict[str, PriceKind] = {
    "llama": "chat",
    "qwen": "embedding",
    "chatterbox": "speech",
    "whisper": "transcription",
}


class UnknownModel(NotFound):
    """Nobody serves a model of that name."""

    default_code = "model_not_found"
    param = "model"


class Catalog:
    """Targets and the names under which they serve."""

    def __init__(self, prices: PriceSheet, fallback: tuple[Backend, str] | None) -> None:
        self._prices = prices
        self._fallback_model = fallback[1] if fallback else ""
        self.fallback = Target(fallback[0]) if fallback else None
        self.targets: list[Target] = []
        self._index: dict[tuple[str, str], list[Target]] = {}
        self._names: dict[tuple[int, str], str] = {}
        self._seen: set[tuple[str, str]] = set()
        self._aliases: dict[str, set[str]] = {}
        for alias, name in prices.aliases.items():
            self._aliases.setdefault(name, {name}).add(alias)

    def replace(self, backends: Sequence[Backend]) -> Sequence[Target]:
        """Take over a new list; what is known of backends that stay is kept. Those that turned sick are returned.

        One that was removed, cordoned or drained is not among them: what it has begun it may end.
        """
        old = {_place(target.backend): target for target in self.targets}
        targets = []
        for backend in backends:
            if not backend.serves:
                continue
            target = old.get(_place(backend))
            if target is None:
                target = Target(backend)
            target.backend = backend
            targets.append(target)
        self.targets = targets
        sick = {_place(backend) for backend in backends if not backend.healthy}
        return [target for place, target in old.items() if place in sick]

    def index(self) -> None:
        """Rebuild the index after targets or their models changed."""
        index: dict[tuple[str, str], list[Target]] = {}
        names: dict[tuple[int, str], str] = {}
        for target in self.targets:
            for served in sorted(target.models):
                for name in sorted(self._same(served), key=lambda each: each != served):
                    if name in target.models and name != served:
                        continue
                    key = (target.backend.service, name)
                    if target not in index.setdefault(key, []):
                        index[key].append(target)
                        names[id(target), name] = served
        self._index, self._names = index, names
        self._seen |= index.keys()

    def targets_of(self, service: str, model: str) -> Sequence[Target]:
        """The backends that serve a model by that name."""
        return self._index.get((service, model), ())

    def served_name(self, target: Target, model: str) -> str:
        """The name under which this backend knows the model."""
        if target is self.fallback:
            return self._fallback_model or model
        return self._names.get((id(target), model), model)

    def price(self, service: str, model: str) -> ModelPrice:
        """What the model costs. UnknownModel (404) when nobody ever served it; BadParameter when it can't do this."""
        kind = SERVICE_KINDS[service]
        price = self._prices.model(model, kind)
        if price.kind != kind:
            raise BadParameter(f"The model {model} can't do this: it is for {price.kind}.", "model", "model_mismatch")
        known = (
            (service, model) in self._index
            or (service, model) in self._seen
            or price.name == self._prices.aliases.get(model, model)
            or self.fallback is not None
        )
        if not known:
            raise UnknownModel(
                f"The model `{model}` does not exist.", remedy="GET /v1/models lists those that there are."
            )
        return price

    def canonical(self, model: str) -> str:
        """The name under which usage of the model is kept."""
        return self._prices.aliases.get(model, model)

    def list(self) -> list[tuple[str, str]]:
        """Each model that is served now, with the name of its service, by name."""
        found = {(model, target.backend.service) for target in self.targets for model in target.models}
        if self._fallback_model:
            found.add((self._fallback_model, "llama"))
        return sorted(found)

    def has(self, model: str) -> bool:
        """Whether a model is served now, by its name or an alias."""
        return any((service, model) in self._index for service in SERVICE_KINDS) or (
            bool(self._fallback_model) and model == self._fallback_model
        )

    def _same(self, name: str) -> set[str]:
        canonical = self._prices.aliases.get(name, name)
        return self._aliases.get(canonical, {canonical}) | {name}


def _place(backend: Backend) -> tuple[str, str, str]:
    return backend.node_id, backend.service, backend.base_url
