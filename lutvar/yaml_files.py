# SPDX-License-Identifier: Apache-2.0
"""The one way to read YAML: presets, accelerator sizes, recipes and plans.

Stricter than YAML where a slip would measure the wrong thing without a word: a key that stands
twice is refused (YAML libraries take the later one), and so are numbers that are not finite.
Files are UTF-8, whatever the locale says. Every error is one line with the place and the rule.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Hashable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable
else:
    from importlib.abc import Traversable

#: Endings that make an argument a path instead of a shipped name.
ENDINGS = (".yaml", ".yml")
#: Bytes of a file at most; the shipped ones have some hundreds.
_LARGEST = 1 << 20
_log = logging.getLogger(__name__)
_Model = TypeVar("_Model", bound=BaseModel)


class YamlError(ValueError):
    """A YAML file that cannot be used: says where and why, in one line."""


def read_yaml(source: Path | Traversable, where: str | None = None) -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        source: the file.
        where: how errors call it; default its path.

    Raises:
        YamlError: unreadable, not UTF-8, not YAML, a key twice, a number that is not finite, or
            something else than a mapping.
    """
    where = str(source) if where is None else where
    try:
        with source.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise YamlError(f"cannot read {where}: {error.strerror or error}") from error
    if len(content) > _LARGEST:
        raise YamlError(f"{where}: has more than {_LARGEST:,} bytes; it is no configuration")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise YamlError(
            f"{where}: byte {content[error.start]:#04x} in line {line} is not UTF-8; save the file "
            "as UTF-8"
        ) from None
    return parse_yaml(text, where)


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in YAML text; as `read_yaml`."""
    try:
        data = yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark else ""
        what = " ".join(str(error.problem or error.context).split())
        raise YamlError(f"{where} is not valid YAML: {place}{what}") from error
    except yaml.YAMLError as error:
        raise YamlError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise YamlError(f"{where} is not valid YAML: nested too deep") from None
    if not isinstance(data, dict):
        what = "nothing" if data is None else f"a {type(data).__name__}"
        raise YamlError(f"{where} holds {what}; a mapping of keys is needed")
    return data


def read_model(model: type[_Model], source: Path | Traversable, where: str | None = None) -> _Model:
    """A checked configuration from a YAML file.

    Args:
        model: its class.
        source: the file.
        where: how errors call it; default its path.

    Raises:
        YamlError: as `read_yaml`, or a key or value that the class refuses.
    """
    where = str(source) if where is None else where
    return validate(model, read_yaml(source, where), where)


def shipped(kind: str) -> list[str]:
    """Names of the YAML files in `lutvar/configs/<kind>`."""
    names = (entry.name for entry in _folder(kind).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_named(model: type[_Model], kind: str, name_or_path: str | Path, what: str) -> _Model:
    """A configuration that comes with lutvar, by name, or one from a YAML file.

    A file whose configuration has another name than the file is said to have one. It must not be
    the name of a shipped configuration that says something else: a changed copy would pass for
    the original in every table, file and module.

    Args:
        model: its class.
        kind: folder in `lutvar/configs`.
        name_or_path: a shipped name, or a path that ends in .yaml or .yml.
        what: how errors call the kind, for example "recipe".

    Raises:
        YamlError: no such name or file, or content or a name that cannot be used.
    """
    path = Path(name_or_path)
    if path.suffix in ENDINGS:
        config = read_model(model, path, f"{what} {path}")
        _check_name(config, path, kind, what)
        return config
    name = str(name_or_path)
    if name not in shipped(kind):
        raise YamlError(
            f"unknown {what} {name!r}; shipped: {', '.join(shipped(kind))} "
            "(or give the path of a .yaml file)"
        )
    return read_model(model, _folder(kind) / f"{name}.yaml", f"{what} {name}")


def _check_name(config: BaseModel, path: Path, kind: str, what: str) -> None:
    name = getattr(config, "name", path.stem)
    if name == path.stem:
        return
    if name in shipped(kind) and config != read_model(type(config), _folder(kind) / f"{name}.yaml"):
        raise YamlError(
            f"{what} {path}: its name is {name!r}, which comes with lutvar and says something "
            f"else; write name: {path.stem}"
        )
    _log.warning("%s %s is named %r in the file; tables and files call it so", what, path, name)


def _folder(kind: str) -> Traversable:
    return resources.files("lutvar") / "configs" / kind


def validate(model: type[_Model], data: Any, where: str) -> _Model:
    """Data as a configuration. Raises YamlError that names every wrong key, its value, the rule."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise YamlError(f"{where}: {explain(error, model)}") from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with the data of a configuration, in one line."""
    parts = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
        if item["type"] == "extra_forbidden":
            parts.append(f"{key}: unknown key; valid keys: {', '.join(_keys(model, item['loc']))}")
        elif item["type"] == "literal_error" and item["loc"][-1] == "[key]":
            keys = item["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
            parts.append(f"{key.removesuffix('.[key]')}: unknown key; valid keys: {keys}")
        elif item["type"] == "missing":
            parts.append(f"{key}: missing; add it")
        else:
            what = item["msg"].removeprefix("Value error, ")
            parts.append(f"{key}: {what}{_got(item['input'])}")
    return "; ".join(parts)


def _got(value: Any) -> str:
    """The value, unless it is so long that it would hide the message."""
    text = repr(value)
    nested = value if isinstance(value, list) else [value]
    plain = not any(isinstance(item, (dict, list, tuple)) for item in nested)
    return f" (got {text})" if len(text) <= 60 and plain else ""


def _keys(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Keys of the configuration that holds the one at `place`."""
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = next(_models(field.annotation), model)
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Configurations in an annotation such as `dict[str, SiteConfig] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses keys twice, endless numbers and endless structures."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.deep_construct = True  # an alias inside its own anchor is an error at once

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Hashable, int] = {}
        for key_node, _value in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, "a list or mapping is no key", key_node.start_mark
                )
            if key in lines:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key!r}, first in line {lines[key]}; keep one",
                    key_node.start_mark,
                )  # fmt: skip
            lines[key] = line
        return super().construct_mapping(node, deep=deep)

    def construct_finite(self, node: yaml.ScalarNode) -> float:
        value: float = self.construct_yaml_float(node)
        if not math.isfinite(value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value} is not a finite number", node.start_mark
            )
        return value


_StrictLoader.add_constructor("tag:yaml.org,2002:float", _StrictLoader.construct_finite)
