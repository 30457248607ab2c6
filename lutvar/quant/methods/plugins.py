# SPDX-License-Identifier: Apache-2.0
"""Registries of what recipes name: filled by a decorator, found in lutvar and in other packages."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Registry(Generic[_T]):
    """Classes by the name under which recipes ask for them.

    A name is looked for among what is registered already, then in the module of that name inside
    `package` (dashes are underscores there), then among the entry points of `group`. Importing the
    module, or loading the entry point, registers the class; so nothing is imported before a recipe
    names it.

    Args:
        key: what a recipe calls it, for messages.
        package: dotted name of the package with the modules of lutvar.
        group: entry point group for other packages.
    """

    def __init__(self, key: str, package: str, group: str) -> None:
        self.key, self.package, self.group = key, package, group
        self._classes: dict[str, _T] = {}

    def register(self, name: str) -> Callable[[_T], _T]:
        """Decorator: makes a class known under a name.

        Raises:
            ValueError: another class has the name already.
        """

        def add(cls: _T) -> _T:
            present = self._classes.setdefault(name, cls)
            if _origin(present) != _origin(cls):
                raise ValueError(
                    f"{self.key} {name!r} is {_origin(present)} already; {_origin(cls)} needs "
                    "another name"
                )
            self._classes[name] = cls  # a module that was reloaded
            return cls

        return add

    def get(self, name: object) -> _T:
        """The class of a name.

        Raises:
            ValueError: there is none, or a package that offers it cannot be loaded.
        """
        if isinstance(name, str):
            if name not in self._classes and name in self._modules():
                importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
            if name not in self._classes:
                self._load_plugin(name)
            if name in self._classes:
                return self._classes[name]
        raise ValueError(f"unknown {self.key} {name!r}; known: {', '.join(self.names())}")

    def names(self) -> list[str]:
        """Every name that `get` knows, sorted; loads what comes with lutvar, but no plug-in."""
        for name in self._modules():
            importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
        return sorted({*self._classes, *(point.name for point in entry_points(group=self.group))})

    def plugins(self) -> dict[str, str]:
        """Names that other packages offer, with what they point to; nothing is loaded."""
        return {
            point.name: point.value
            for point in entry_points(group=self.group)
            if point.name not in self._modules()
        }

    def _modules(self) -> set[str]:
        paths = importlib.import_module(self.package).__path__
        return {info.name.replace("_", "-") for info in pkgutil.iter_modules(paths)}

    def _load_plugin(self, name: str) -> None:
        points = [p for p in entry_points(group=self.group) if p.name == name]
        if len({p.value for p in points}) > 1:
            places = ", ".join(p.value for p in points)
            raise ValueError(
                f"{self.key} {name!r} is offered by {places}; uninstall all packages but one"
            )
        for point in points[:1]:
            try:
                cls = point.load()
            except Exception as error:  # whatever the user's package raises when it is imported
                raise ValueError(
                    f"{self.key} {name!r}: entry point {point.value} cannot be loaded: {error}"
                ) from error
            self._classes.setdefault(name, cls)


def _origin(cls: object) -> str:
    return f"{getattr(cls, '__module__', '?')}.{getattr(cls, '__qualname__', cls)}"
