"""Typed sections of settings and of ``bundle.json``; an unknown key is an error."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator
from pydantic import ValidationError as PydanticError

from stillwatch.errors import SettingsError
from stillwatch.text import unknown_name


class Section(BaseModel):
    """A group of settings; an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any, info: ValidationInfo) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(unknown_name("setting", str(key), list(cls.model_fields)))
        return values


S = TypeVar("S", bound=Section)


def parse_section(section: type[S], values: Any, *, where: str) -> S:
    """Validate ``values`` as ``section``; ``where`` names their origin in the error.

    Raises:
        SettingsError: one sentence per wrong value, each with its dotted name.
    """
    try:
        return section.model_validate(values)
    except PydanticError as error:
        raise SettingsError(f"{where}: {'; '.join(wrong_values(error))}.") from error


def wrong_values(error: PydanticError) -> list[str]:
    """One phrase per wrong value, each with its dotted name."""
    return [_describe(item) for item in _causes(error.errors(include_url=False))]


def _causes(items: Sequence[Any]) -> list[Any]:
    """Without errors that only repeat that a value inside is wrong."""
    places = [item["loc"] for item in items]
    return [
        item
        for item in items
        if not any(
            len(place) > len(item["loc"]) and place[: len(item["loc"])] == item["loc"]
            for place in places
        )
    ]


def _describe(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}" if name else message
