# SPDX-License-Identifier: Apache-2.0
"""Checks of configuration values, and configurations as plain dictionaries and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from typing_extensions import Self

from lutvar.contract.errors import ConfigError
from lutvar.files import json_text


def need_int(owner: str, name: str, value: object, low: int) -> None:
    """Raise ConfigError unless the value is a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{owner}.{name} = {value!r}: must be a whole number of at least {low}")


def need_number(owner: str, name: str, value: object, low: float, high: float) -> None:
    """Raise ConfigError unless the value is a number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{owner}.{name} = {value!r}: must be a number from {low} to {high}")


def need_bool(owner: str, name: str, value: object) -> None:
    """Raise ConfigError unless the value is true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{owner}.{name} = {value!r}: must be true or false")


def whole_numbers(owner: str, name: str, value: object) -> tuple[int, ...]:
    """A tuple of positive whole numbers (a JSON list is accepted)."""
    if not isinstance(value, list | tuple) or not value:
        raise ConfigError(f"{owner}.{name} = {value!r}: must be a list of whole numbers")
    for item in value:
        need_int(owner, f"{name}[...]", item, 1)
    return tuple(value)


class DictRoundTrip:
    """to_dict/from_dict and JSON for the dataclasses of configurations."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary (tuples become lists) that `from_dict` takes back."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild a configuration.

        Raises:
            ConfigError: unknown or missing keys, or a value that breaks a rule.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__}: expected an object of settings, got {values!r}")
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise ConfigError(
                f"{cls.__name__}: unknown setting(s) {', '.join(map(repr, unknown))}; "
                f"valid ones are {', '.join(sorted(fields))}"
            )
        missing = sorted(
            name
            for name, f in fields.items()
            if f.default is dataclasses.MISSING and name not in values
        )
        if missing:
            raise ConfigError(f"{cls.__name__}: missing setting(s) {', '.join(missing)}; add them")
        return cls(**values)

    def to_json(self) -> str:
        """One line of JSON with sorted keys."""
        return json_text(self.to_dict(), sort_keys=True)
