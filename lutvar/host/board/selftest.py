# SPDX-License-Identifier: Apache-2.0
"""Whether an accelerator works: registers, memory, one tile of every unit, one image; four rounds.

Results are compared with references of the golden model where there are any, with the same program
run one instruction at a time, and with the other rounds' where they must be equal. The verdict says
what was not checked.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import Region
from lutvar.contract.passes import ImageStep, guidance_at
from lutvar.contract.register_map import BY_NAME, MAGIC
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.device import Device
from lutvar.host.device_errors import MissedInterrupt
from lutvar.host.errors import HostError, IncompatibleDevice, UnknownAccelerator
from lutvar.host.shipped import device_hash, shipped_accelerator
from lutvar.host.transformer import DeviceTransformer
from lutvar.host.transport import Bytes, MemoryTransport, as_bytes

from .memory_map import parts
from .references import References, fingerprint
from .selftest_memory import Difference, device_memory, expect, host_memory
from .selftest_registers import interrupt, registers
from .unit_programs import tile_program

#: Names of the checks of a round, in their order; the last one needs a packed model.
CHECKS = ("registers", "interrupt", "memory, host", "memory, device", "units", "image")
ROUNDS = 4  #: constant data and first runs have hidden faults before
_LIMIT = 10_000_000  #: cycles of the tile's program
_CFG = 1.5


@dataclass
class Outcome:
    """One check of one round: `result` is "passed" or "failed", `what` says why it failed."""

    check: str
    round: int
    result: str
    what: str = ""
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Verdict:
    """What a self-test found.

    Attributes:
        passed: no check failed; look at `not_checked` before believing it.
        not_checked: what no check has covered, and why.
    """

    device: str
    accelerator: str
    hash: str
    memory: list[dict[str, Any]]
    rounds: int
    missed_interrupts: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """No check failed."""
        return bool(self.outcomes) and all(o.result != "failed" for o in self.outcomes)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"format": "lutvar-selftest-verdict-1", "passed": self.passed, **asdict(self)}


class SelfTest:
    """Tests a device whose transport is open; its memory loses its contents.

    Args:
        transport: of the device.
        config: what the device must be.
        packed: a model for the image; without one that check is left out.
        references: what results must be.
        full: test every byte of memory.
        say: takes a line after each check.
    """

    def __init__(
        self,
        transport: MemoryTransport,
        config: AcceleratorConfig,
        *,
        packed: PackedTransformer | None = None,
        references: References | None = None,
        full: bool = False,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.transport, self.config, self.packed = transport, config, packed
        self.full, self.say = full, say
        digest = f"{accelerator_hash(config):016x}"
        model = packed.digest() if packed else ""
        if references is not None:
            references.check(digest, model)
        self._references = references
        #: What this run's results were, to be a reference for others.
        self.recorded = References(digest, model, transport.name)
        self.verdict = Verdict(
            transport.name, config.name, digest,
            [asdict(part) for part in parts(transport.base, transport.size)], 0,
        )  # fmt: skip

    def run(self, rounds: int = ROUNDS, only: Collection[str] = ()) -> Verdict:
        """All checks, or `only` some, `rounds` times with other data each. Raises no HostError.

        The verdict's `not_checked` names the checks that `only` leaves out.
        """
        verdict = self.verdict
        verdict.rounds = rounds
        if self._references is None:
            verdict.not_checked.append("units against the golden model: no reference")
        if self.packed is None:
            verdict.not_checked.append("an image: no packed model was given")
        if not self.full:
            verdict.not_checked.append("every byte of memory: sampled only")
        if only:
            left_out = [name for name in CHECKS if name not in only]
            verdict.not_checked += [f"{name}: left out" for name in left_out]
        device = Device(self.transport, self.config)
        try:
            device.open()
        except HostError as error:
            verdict.outcomes.append(Outcome("open", 0, "failed", str(error)))
            return verdict
        with warnings.catch_warnings(), contextlib.closing(device):
            warnings.simplefilter("ignore", MissedInterrupt)  # counted instead
            for number in range(rounds):
                self._round(device, number, only)
        verdict.missed_interrupts = device.missed_interrupts
        return verdict

    def _round(self, device: Device, number: int, only: Collection[str]) -> None:
        checks: tuple[Callable[[], dict[str, Any]], ...] = (
            lambda: registers(device, number),
            lambda: interrupt(device),
            lambda: host_memory(self.transport, number, full=self.full),
            lambda: device_memory(device, number),
            lambda: self._units(device, number),
            lambda: self._image(device),
        )
        for name, check in zip(CHECKS, checks, strict=True):
            if (only and name not in only) or (name == "image" and self.packed is None):
                continue
            started = time.monotonic()
            outcome = Outcome(name, number, "passed")
            try:
                outcome.details = check()
            except (Difference, HostError) as error:
                outcome.result, outcome.what = "failed", str(error)
                with contextlib.suppress(HostError):
                    device.soft_reset()
            outcome.seconds = round(time.monotonic() - started, 3)
            self.verdict.outcomes.append(outcome)
            self.say(
                f"round {number + 1}, {name}: {outcome.result} ({outcome.seconds:.1f} s)"
                + (f": {outcome.what}" if outcome.what else "")
            )

    def _units(self, device: Device, number: int) -> dict[str, Any]:
        """A tile through every unit: as fast as it goes, and one instruction at a time."""
        tile = tile_program(self.config, number + 1)
        sizes = {region: len(content) for region, content in tile.before.items()}
        cycles, found = {}, []
        for serial in (False, True):
            work, io, cache = (sizes[r] for r in (Region.WORK, Region.IO, Region.CACHE))
            device.place(tile.before[Region.MODEL], work, io, cache)
            for region in (Region.WORK, Region.IO, Region.CACHE):
                device.write(region, 0, tile.before[region])
            device.set_serial(serial)
            try:
                counters = device.run(tile.program, _LIMIT, "tile through every unit")
            finally:
                device.set_serial(False)
            cycles["serial" if serial else "overlapped"] = counters.cycles
            found.append({name: device.read(*where) for name, where in tile.results.items()})
        for name, right in found[1].items():
            expect(found[0][name], right, 0, f"{name}: not what it is one instruction at a time")
        for name, values in found[0].items():
            self._compare(f"units/{number}/{name}", values)
        return {"instructions": sum(counters.instructions), "cycles": cycles}

    def _image(self, device: Device) -> dict[str, Any]:
        """Every pass of one guided image, with embeddings of noise; the same in each round."""
        assert self.packed is not None
        shape = self.packed.layout.shape
        label = next(x for x in self.packed.layout.labels if x != self.packed.null_label)
        transformer, rng = DeviceTransformer(device, self.packed, 1), np.random.default_rng(0)
        position = 0
        for scale, tokens in enumerate(shape.scale_tokens):
            x = rng.standard_normal((2, tokens, shape.width)).astype(np.float32)
            guidance = guidance_at(_CFG, scale, len(shape.scale_tokens))
            step = ImageStep(0, label, position, x[0], x[1], guidance)
            (logits,) = transformer.run([step])
            if not np.isfinite(logits).all():
                raise Difference(f"pass {scale + 1}: logits are not finite")
            self._compare(f"image/{scale}", fingerprint(as_bytes(logits)))
            position += tokens
        return {"passes": len(shape.scale_tokens), "tokens": position}

    def _compare(self, name: str, values: Bytes) -> None:
        """With this run's earlier rounds, and with the reference."""
        earlier = self.recorded.results.setdefault(name, values)
        if not np.array_equal(earlier, values):
            raise Difference(f"{name}: another result than in an earlier round of the same data")
        if self._references is None:
            return
        right = self._references.results.get(name)
        if right is None:
            missing = f"{name.split('/')[0]} beyond what the references hold"
            if missing not in self.verdict.not_checked:
                self.verdict.not_checked.append(missing)
        else:
            expect(values, right, 0, f"{name}: not what the golden model says")


def identify(transport: MemoryTransport) -> AcceleratorConfig:
    """The accelerator that ships and has the device's hash.

    Raises:
        IncompatibleDevice: no lutvar accelerator at all.
        UnknownAccelerator: none that ships.
    """

    def read(name: str) -> int:
        return transport.read32(BY_NAME[name].offset)

    if read("MAGIC") != MAGIC:
        raise IncompatibleDevice("MAGIC", MAGIC, read("MAGIC"), "this is no lutvar accelerator")
    hash_ = device_hash(read)
    config = shipped_accelerator(hash_)
    if config is None:
        raise UnknownAccelerator(hash_)
    return config
