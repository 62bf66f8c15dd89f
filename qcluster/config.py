"""The base of every module's configuration: frozen, validated once, the same object everywhere.

A module's toggles are the fields of one ``Config``. The same class reads Python keywords, YAML,
CLI options and HTTP bodies; ``recommend()`` of each module returns one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qcluster.errors import InputError
from qcluster.record import Record

__all__ = ["Config", "Recommendation"]


class Config(BaseModel):
    """Base of the modules' configurations. Unknown fields and wrong types are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def read(cls, data: Mapping[str, Any] | Self | None) -> Self:
        """A configuration from a mapping, another one, or None for the defaults.

        Raises InputError naming the first field that is wrong.
        """
        if data is None:
            return cls()
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping):
            name = cls.__name__
            raise InputError(f"wants {name} or a mapping, got {data!r:.40}", field="config")
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(first["msg"], field=f"config.{where}") from None

    def with_(self, **changes: Any) -> Self:
        """A validated copy with some fields changed."""
        return type(self).read({**self.model_dump(), **changes})


C = TypeVar("C", bound=Config)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Recommendation(Record, Generic[C]):
    """A row of a module's recommendation table.

    ``row`` is the table's row as written in the module's documentation, ``config`` what to pass
    on, ``measured`` what our own benchmark says of the row's claim (None: not measured yet).
    """

    row: dict[str, str]
    config: C
    measured: str | None = None
