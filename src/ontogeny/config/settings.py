"""What every section of settings has in common: strict names, errors of one line, a fingerprint."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ontogeny.errors import ConfigError, did_you_mean

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """A section of settings: immutable, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _know_every_key(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if str(key) not in cls.model_fields:
                    raise ConfigError(
                        f"unknown setting '{key}' in {cls.__name__}{did_you_mean(str(key), cls.model_fields)}; "
                        f"it has: {', '.join(cls.model_fields)}"
                    )
                if isinstance(values[key], bool) and "bool" not in str(cls.model_fields[str(key)].annotation):
                    raise ConfigError(f"{key} is to be no {str(values[key]).lower()}: give a value")
        return values


def parse(model: type[Settings], values: Any, *, where: str) -> Any:
    """Build `model` from plain values; anything wrong becomes one `ConfigError` line that names the setting."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected settings as `key: value`, found {type(values).__name__}")
    try:
        return model.model_validate(values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except ValidationError as error:
        first, *others = error.errors()
        setting = _named(first["loc"]) or "settings"
        if first["type"] == "missing":
            raise ConfigError(f"{where}: setting '{setting}' is missing") from None
        # a setting that may take several forms fails once for each
        forms = [other["msg"] for other in others if _named(other["loc"]) == _named(first["loc"])]
        said = "; or: ".join([first["msg"], *forms])
        raise ConfigError(f"{where}: {setting} = {first['input']!r}: {said}") from None


def _named(places: tuple[int | str, ...]) -> str:
    """The setting that pydantic means; its names of a setting's forms, such as `literal['auto']`, are left out."""
    return ".".join(str(place) for place in places if str(place).replace("_", "").isalnum())


def fingerprint(*parts: Any) -> str:
    """A short hash of settings and other plain values; equal values give equal fingerprints on every machine."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
