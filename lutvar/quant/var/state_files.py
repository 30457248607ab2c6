# SPDX-License-Identifier: Apache-2.0
"""The tensors in a model file, in whichever form people have it.

Endings: .safetensors and .safetensors.xz of this project, with the configuration inside, and .pth,
.pt or .bin as PyTorch writes them. Those may be a bare table of tensors, as VAR's releases are, or
what a training run saved: tables in folders of a dictionary (`trainer.var_wo_ddp`), with the
prefixes that DataParallel, compilation and FSDP put before names. The one table that fits is taken;
where none or several do, the error lists them and says how to save one alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lutvar.files import not_a_file

from .compact import unpack
from .pickled import PickledError, read_pickled

#: Ending of compact files.
COMPACT = ".safetensors.xz"
#: How many offending keys an error lists.
LISTED = 4
#: Metadata entry with the configurations.
METADATA = "lutvar"
#: Endings of files that PyTorch writes.
PICKLED = (".pth", ".pt", ".bin")
Kind = Literal["var", "vqvae", "rar", "par", "maskgit", "vq16"]
Configurations = dict[str, dict[str, Any]]
#: Name -> shape.
Shapes = Mapping[str, list[int]]

#: Entries that every model of a kind has.
_MARKS: dict[Kind, tuple[str, ...]] = {
    "var": ("pos_1LC", "head.weight"),
    "vqvae": ("quantize.embedding.weight", "post_quant_conv.weight"),
    "rar": ("timesteps_embeddings", "lm_head.weight"),
    "par": ("spe_tok_embeddings.special_embeddings.weight", "output.weight"),
    "maskgit": ("quantize.embedding.weight", "decoder.up.0.block.0.conv1.weight"),
    "vq16": ("quantize.embedding.weight", "decoder.conv_blocks.0.res.0.conv1.weight"),
}
_TITLES: dict[Kind, str] = {
    "var": "transformer", "vqvae": "tokenizer", "rar": "RAR transformer", "par": "PAR transformer",
    "maskgit": "MaskGIT-VQGAN tokenizer", "vq16": "VQ-16 tokenizer",
}  # fmt: skip
#: What wrappers of modules put into names, anywhere and before all of them.
_INSIDE = re.compile(r"\b_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
_BEFORE = "module."
#: Folders in folders of a dictionary, at most.
_DEPTH = 4


class CheckpointError(ValueError):
    """A model file that cannot be used; the text says what was found and what was expected."""


def read_state(path: Path, kind: Kind) -> tuple[dict[str, Tensor], Configurations]:
    """The tensors of a model of one kind, and the file's configurations by kind (or none).

    Raises:
        CheckpointError: missing or damaged file, unknown ending, or no such model in it.
    """
    if problem := not_a_file(path):
        raise CheckpointError(f"{path}: {problem}")
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
    elif path.name.endswith(COMPACT):
        try:
            state, metadata = unpack(path.read_bytes())
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}; copy or download it again") from error
    elif path.suffix in PICKLED:
        return _select(path, _read_pth(path), kind), {}
    else:
        raise CheckpointError(
            f"{path}: unknown ending {path.suffix!r}; use .safetensors, {COMPACT}, "
            f"{', '.join(PICKLED)}"
        )
    configurations = _configurations(path, metadata)
    return (state if configurations else unwrapped(path, state)), configurations


def kind_of(path: Path, kinds: Sequence[Kind]) -> Kind | None:
    """The first of the kinds that a file of PyTorch holds a model of, or None.

    Raises:
        CheckpointError: damaged file, or one with other objects than tensors.
    """
    content = _read_pth(path)
    tables = []
    if isinstance(content, Mapping):
        tables = [unwrapped(path, table) for _, table in _tables(content)]
    for kind in kinds:
        if any(all(mark in table for mark in _MARKS[kind]) for table in tables):
            return kind
    return None


def differences(expected: Shapes, actual: Shapes) -> list[str]:
    """Sentences on missing, extra and misshapen names; empty when all match."""
    groups = {
        "missing": [f"{k} {v}" for k, v in expected.items() if k not in actual],
        "not expected": [f"{k} {v}" for k, v in actual.items() if k not in expected],
        "wrong shape": [
            f"{k}: found {actual[k]}, expected {v}"
            for k, v in expected.items()
            if k in actual and actual[k] != v
        ],
    }
    return [sentence(what, entries) for what, entries in groups.items() if entries]


def sentence(what: str, entries: Sequence[str]) -> str:
    """A count and the first few entries."""
    more = f" and {len(entries) - LISTED} more" if len(entries) > LISTED else ""
    return f"{len(entries)} {what}: {'; '.join(entries[:LISTED])}{more}."


def unwrapped(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the prefixes of wrappers. CheckpointError when names then clash."""
    result: dict[str, Tensor] = {}
    before = all(_INSIDE.sub("", key).startswith(_BEFORE) for key in state)
    for key, value in state.items():
        name = _INSIDE.sub("", key)
        name = name.removeprefix(_BEFORE) if before else name
        if name in result:
            raise CheckpointError(
                f"{path}: {name} is there twice, with and without the prefix of {key}; save the "
                "state_dict of the model inside the wrapper"
            )
        result[name] = value
    return result


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a complete safetensors file ({error}); copy or download it again"
        ) from error


def _configurations(path: Path, metadata: Mapping[str, str]) -> Configurations:
    if METADATA not in metadata:
        return {}
    try:
        return dict(json.loads(metadata[METADATA]))
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its configuration is not usable: {error}") from error


def _read_pth(path: Path) -> object:
    try:
        return read_pickled(path)
    except PickledError as error:
        fix = "copy or download it again"
        if error.objects:
            fix = f"save the tensors alone, if you trust the file: {_command(path, '')}"
        raise CheckpointError(f"{error}; {fix}") from error


def _select(path: Path, content: object, kind: Kind) -> dict[str, Tensor]:
    """The table of tensors that is a model of the kind."""
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__}; a table of tensors is needed, as a model's "
            "state_dict() gives it"
        )
    tables = dict(_tables(content))
    fitting = {}
    for place, table in tables.items():
        state = unwrapped(path, table)
        if all(mark in state for mark in _MARKS[kind]):
            fitting[place] = state
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if fitting:
        raise CheckpointError(
            f"{path}: holds several {_TITLES[kind]}s: {', '.join(p or '(top)' for p in fitting)}; "
            f"save the one to use alone: {_command(path, max(fitting))}"
        )
    if "" in tables:  # what does not fit is named when it is filled in
        return unwrapped(path, tables[""])
    names = [str(key) for key in content]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    tensors = ", ".join(tables) or "none"
    raise CheckpointError(
        f"{path}: holds no {_TITLES[kind]}, but {', '.join(names[:LISTED])}{more} (tables of "
        f"tensors: {tensors}); give a file with the {_TITLES[kind]}'s state_dict()"
    )


def _tables(content: Mapping[Any, Any], place: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Tables of tensors in a dictionary with the folders that lead to them, "" for itself.

    Numbers and text beside the tensors (epoch, best loss) do not belong to the model.
    """
    table = {k: v for k, v in content.items() if isinstance(v, Tensor) and isinstance(k, str)}
    if table:
        yield place, table
    if place.count(".") < _DEPTH:
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, Mapping):
                yield from _tables(value, f"{place}.{key}" if place else key)


def _command(path: Path, place: str) -> str:
    """A command that saves one table of a file."""
    where = "".join(f"[{key!r}]" for key in place.split(".")) if place else "[...]"
    loaded = f"torch.load({path.name!r}, map_location='cpu', weights_only=False)"
    return f'python -c "import torch; torch.save({loaded}{where}, {"alone-" + path.name!r})"'
