# SPDX-License-Identifier: Apache-2.0
"""A case: steps on a fresh device, and what was wrong. Kept as a JSON file that can be replayed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import INSTRUCTION_BYTES
from lutvar.contract.register_map import VERSION
from lutvar.files import json_text, write_file

from .contents import PROGRAM_BYTES, Fill
from .events import Event, Timing

FORMAT = "lutvar-fuzz-1"


class CaseError(ValueError):
    """A file that is no case of this version; names what differs and what to do."""


@dataclass(frozen=True)
class Step:
    """A program on the device.

    Attributes:
        program: as it lies in memory.
        right: it keeps every rule, so it must run to its end and leave what the interpreter says.
        fills: what lies in memory before it.
        timing: of the memory.
        event: what happens while it runs.
    """

    program: bytes
    right: bool
    fills: tuple[Fill, ...]
    timing: Timing = field(default_factory=Timing)
    event: Event | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain data: the program as one line of hexadecimal digits for each instruction."""
        size, raw = INSTRUCTION_BYTES, self.program
        return {
            "right": self.right,
            "program": [raw[i : i + size].hex() for i in range(0, len(raw), size)],
            "memory": [fill.as_json() for fill in self.fills],
            "timing": self.timing.as_json(),
            "event": None if self.event is None else self.event.as_json(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Step:
        """The inverse of `as_json`. Raises ValueError, KeyError or TypeError."""
        program = b"".join(map(bytes.fromhex, data["program"]))
        if len(program) % INSTRUCTION_BYTES or not 0 < len(program) <= PROGRAM_BYTES:
            raise ValueError(f"a program of {len(program)} bytes")
        event = None if data["event"] is None else Event.from_json(data["event"])
        fills = tuple(Fill.from_json(row) for row in data["memory"])
        return cls(program, bool(data["right"]), fills, Timing.from_json(data["timing"]), event)


@dataclass(frozen=True)
class Case:
    """Steps one after the other on a fresh device.

    Attributes:
        config: the accelerator.
        steps: in order; between them only what a driver does: SOFT_RESET after an error.
        seed: of the run that found it.
        what: the deviation when it was found.
    """

    config: AcceleratorConfig
    steps: tuple[Step, ...]
    seed: int = 0
    what: str = ""

    def with_steps(self, steps: Sequence[Step]) -> Case:
        """The same with other steps."""
        return replace(self, steps=tuple(steps))

    def write(self, path: Path) -> None:
        """Write the file."""
        data = {
            "format": FORMAT, "version": VERSION, "hash": f"{accelerator_hash(self.config):016x}",
            "what": self.what, "seed": self.seed, "config": self.config.model_dump(),
            "steps": [step.as_json() for step in self.steps],
        }  # fmt: skip
        write_file(path, json_text(data, indent=1) + "\n")


def read_case(path: Path) -> Case:
    """Read a case file. Raises CaseError when it is none, or one of another version."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CaseError(f"{path}: {error}; it is no case of lutvar fuzz") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CaseError(f"{path}: it is no case of lutvar fuzz (its format is not {FORMAT})")
    if data.get("version") != VERSION:
        raise CaseError(
            f"{path}: the case is for contract version {_hex(data.get('version'))}, this is "
            f"{_hex(VERSION)}; run it with the release that wrote it"
        )
    try:
        config = AcceleratorConfig.model_validate(data["config"])
        digest = f"{accelerator_hash(config):016x}"
        if data["hash"] != digest:
            raise CaseError(
                f"{path}: the case is for the contract with hash {data['hash']}, here "
                f"{config.name} has {digest}; run it with the release that wrote it"
            )
        steps = tuple(Step.from_json(row) for row in data["steps"])
        return Case(config, steps, int(data["seed"]), str(data["what"]))
    except CaseError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CaseError(f"{path}: a damaged case: {' '.join(str(error).split())}") from None


def _hex(value: object) -> str:
    return f"0x{value:X}" if isinstance(value, int) else "unknown"
