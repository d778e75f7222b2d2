"""The settings of another installation, from what its `.env` says and from nothing of this process's environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from wopr.core.settings import Settings, not_understood


def settings_of(values: Mapping[str, str], home: Path) -> Settings:
    """Settings from these variables alone. NotConfigured names what can't be understood."""
    given: dict[str, object] = {name: value for name, value in values.items() if value}
    try:
        # The variables of this process would fill in for what the other one leaves out.
        return _Given(**{_field_of(name): value for name, value in given.items()} | {"wopr_home": home})  # type: ignore[arg-type]
    except ValidationError as error:
        raise not_understood(error) from None


class _Given(Settings):
    """Settings from the arguments alone."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **_others: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _field_of(name: str) -> str:
    """A variable's name as the field takes it: in small letters, except for one that has several."""
    return name.lower() if name.lower() in Settings.model_fields else name
