# SPDX-License-Identifier: Apache-2.0
"""The record of results: a line of JSON for each row of the tables, from which the page is made.

A row's key holds all that its figures depend on and that can be had without computing: recipe,
model, how it is computed and by which arithmetic, settings. A row whose key is another one today
is stale. What a change of a method's code does to its figures only measuring again can tell; the
version and the date of a row say when it was measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from lutvar.contract import functions, register_map
from lutvar.contract.formats import get_format
from lutvar.contract.hadamard import sign_vector
from lutvar.contract.quant_preset import GROUP, load_quant
from lutvar.files import json_text, write_file

from .intervals import Interval, interval


class RecordError(ValueError):
    """A file that is no record of results; the message names it."""


class RowId(NamedTuple):
    """Which row of the tables; a record has one line for each."""

    model: str
    recipe: str
    on: str
    task: str
    samples: int
    seeds: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.recipe}, {self.on}, {self.task}, {self.samples} x {len(self.seeds)}"


class Key(BaseModel):
    """What the figures of a row depend on.

    Attributes:
        model, fingerprint: name of the model and hash of its files.
        recipe, recipe_sha256: name and hash of its settings; "float" and "" without one.
        on: "float", "fake" or "golden", see `subject`.
        arithmetic: hash of what the golden model computes, else "".
        task: "generate" or an editing task.
        samples, seeds: images for each seed.
        teacher: images with given tokens.
        settings: of the drawing, as `SampleSettings.as_dict`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    fingerprint: str
    recipe: str
    recipe_sha256: str
    on: str
    arithmetic: str
    task: str
    samples: int
    seeds: tuple[int, ...]
    teacher: int
    settings: dict[str, Any]

    @property
    def id(self) -> RowId:
        """Which row it is."""
        return RowId(self.model, self.recipe, self.on, self.task, self.samples, self.seeds)


class Hardware(BaseModel):
    """What the recipe asks of hardware, as far as the page tells; see `HardwareReport`.

    Attributes:
        more_cycles: percent more cycles of the array than with one term everywhere; None: not
            reckoned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits_per_weight: float
    runs: bool
    preset: str | None
    kv_format: str
    missing: tuple[str, ...]
    more_cycles: float | None = None


class Row(BaseModel):
    """A line of the record.

    Attributes:
        source: "measured", or "printed": of figures measured before there was a record only what
            the page said is left.
        lutvar, date: version and day.
        hardware: None for the unquantized model.
        runs: figures of each seed, in full but for those of single linears; none if printed.
        printed: figure -> mean and half width of its interval.
        tokens: of the first image of each class at the first seed, for the picture; or None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["lutvar-results-1"] = "lutvar-results-1"
    key: Key
    source: Literal["measured", "printed"] = "measured"
    lutvar: str
    date: str
    hardware: Hardware | None = None
    runs: tuple[dict[str, Any], ...] = ()
    printed: dict[str, tuple[float, float | None]] = {}
    tokens: tuple[tuple[int, ...], ...] | None = None

    def values(self, figure: str) -> list[float]:
        """A figure such as "forced.kl_nats" of each seed, in the order of seeds.

        Raises:
            LookupError: there is no such figure, or the row is a printed one.
        """
        part, name = figure.split(".")
        runs = sorted(self.runs, key=lambda run: run["seed"])
        if not runs or any(run[part] is None for run in runs):
            raise LookupError(figure)
        return [float(run[part][name]) for run in runs]

    def figure(self, name: str) -> Interval | None:
        """Mean and interval over seeds; None where the row has no such figure."""
        if self.source == "printed":
            seeds = len(self.key.seeds)
            return Interval(*self.printed[name], seeds) if name in self.printed else None
        try:
            return interval(self.values(name))
        except (LookupError, TypeError):  # no such part, or a value that JSON has not
            return None


class State(NamedTuple):
    """Where a row stands: "done", "printed", "stale" or "to do"; `why` it is stale."""

    key: Key
    state: str
    row: Row | None
    why: str = ""


class Record:
    """All rows of a file.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[RowId, Row] = {}
        for row in read_rows(path) if path.exists() else []:
            self.rows[row.key.id] = row

    def state(self, key: Key) -> State:
        """Where the row with this key stands."""
        row = self.rows.get(key.id)
        if row is None:
            return State(key, "to do", None)
        now, then = key.model_dump(), row.key.model_dump()
        changed = [name for name in now if now[name] != then[name]]
        if changed:
            return State(key, "stale", row, f"measured with another {' and '.join(changed)}")
        return State(key, "done" if row.source == "measured" else "printed", row)

    def hardware(self, recipe: str, recipe_sha256: str, fingerprint: str) -> Hardware | None:
        """What is known about a recipe on a model without quantizing it."""
        for row in self.rows.values():
            key = row.key
            if (key.recipe, key.recipe_sha256, key.fingerprint) == (
                recipe, recipe_sha256, fingerprint,
            ):  # fmt: skip
                return row.hardware
        return None

    def put(self, rows: Iterable[Row]) -> None:
        """Add rows, in place of those with the same id, and write the file."""
        for row in rows:
            self.rows[row.key.id] = row
        write_file(self.path, lines(self.rows.values()))


def read_rows(path: Path) -> list[Row]:
    """Rows of a file. Raises RecordError."""
    rows: list[Row] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            rows.append(Row.model_validate_json(line))
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read ({error})") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the line"
        raise RecordError(
            f"{path}: line {len(rows) + 1} is no row of results ({where}: {problem['msg']}); "
            "restore the file, or remove the line"
        ) from None
    return rows


def lines(rows: Iterable[Row]) -> str:
    """Rows as JSON lines, sorted so that a row keeps its place."""
    ordered = sorted(rows, key=lambda row: row.key.id)
    return "".join(json_text(json.loads(row.model_dump_json())) + "\n" for row in ordered)


def arithmetic_hash(preset: str, kv_format: str) -> str:
    """Hash of what a golden transformer with this preset and records computes, 16 hexadecimal
    digits.

    Formats, tables, rotation and the version of the arithmetic; sizes of an accelerator change no
    figure, nor does what the decoder alone computes.
    """
    quant = load_quant(preset)
    tables = {name: table for name, table in functions.as_json().items() if name != "silu"}
    identity = {
        "version": register_map.ARITHMETIC_VERSION,
        "group": GROUP,
        "quant": quant.model_dump(mode="json"),
        "kv": get_format(kv_format).as_dict(),
        "signs": [int(sign) for sign in sign_vector(quant.hadamard_seed)],
        "functions": tables,
    }
    return hashlib.sha256(json_text(identity, sort_keys=True).encode()).hexdigest()[:16]
