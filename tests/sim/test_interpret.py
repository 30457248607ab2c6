# SPDX-License-Identifier: Apache-2.0
"""The interpreter's NORM, sums and SUMS against the golden decoder's norm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.column_sums import SumMode, unpack
from lutvar.contract.decoder_host import Vectors
from lutvar.contract.isa import (
    PAYLOAD_FIELDS,
    Instruction,
    Opcode,
    PostOp,
    ProgramError,
    Region,
    address,
)
from lutvar.quant.golden.decoder.norm import norm, sums
from lutvar.sim.interpret import Machine

CONFIG = load_accelerator("small-fp4")
ONE = 0x3C00
RAW, TARGET, VECTORS, TABLE = 0, 0x8000, 0x10000, 0x11000


def _post(machine: Machine, **operands: int) -> None:
    zero = dict.fromkeys((item.name for item in PAYLOAD_FIELDS[Opcode.POST]), 0)
    machine.step(Instruction(Opcode.POST, zero | {"scalar": ONE} | operands))


def _write(machine: Machine, at: int, data: np.ndarray) -> None:
    raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    machine.memory[Region.WORK][at : at + raw.size] = raw


def _machine() -> Machine:
    return Machine(CONFIG, {Region.WORK: 0x20000})


def _work(at: int) -> int:
    return address(Region.WORK, at)


def test_norm_of_a_map() -> None:
    """Rows of four pixels of 32 channels, with and without vectors and gate."""
    rng = np.random.default_rng(2)
    raw = rng.normal(0, 3, (1, 4, 4, 32)).astype(np.float32)
    scale, shift = (rng.normal(0, 1, (1, 32)).astype(np.float16) for _ in range(2))
    for gate in (0, 1):
        for vectors in (None, Vectors(scale, shift)):
            machine = _machine()
            _write(machine, RAW, raw)
            more: dict[str, Any] = {}
            if vectors is not None:
                _write(machine, VECTORS, np.tile(scale, 4))
                _write(machine, VECTORS + 256, np.tile(shift, 4))
                more = {"vector": 1, "vector_address": _work(VECTORS), "shift": 1,
                        "keys": _work(VECTORS + 256)}  # fmt: skip
            # Two pixels of border between the lines of the target: rows of 256 bytes, 384 apart.
            _post(machine, op=int(PostOp.NORM), rows=4, blocks=1, input=_work(RAW),
                  input_stride=512, output=_work(TARGET), output_stride=384, gate=gate,
                  **more)  # fmt: skip
            found = np.stack([
                machine.memory[Region.WORK][TARGET + 384 * y :][:256].view(np.float16)
                for y in range(4)
            ])  # fmt: skip
            want = norm(raw, vectors, bool(gate)).reshape(4, 128)
            assert found.tobytes() == want.tobytes()


def test_sums_that_nobody_began() -> None:
    machine = _machine()
    rows = {"rows": 1, "output": _work(TARGET), "output_stride": 1024}
    _post(machine, op=int(PostOp.STORE), blocks=1, sums=int(SumMode.BEGIN), **rows)
    for more in ({"op": int(PostOp.SUMS)}, {"op": int(PostOp.STORE), "sums": int(SumMode.ON)}):
        with pytest.raises(ProgramError, match="2 blocks; instructions have begun those of 1"):
            _post(machine, blocks=2, **rows, **more)


def test_sums_of_two_instructions() -> None:
    """STORE begins, ADD goes on; of other columns the sums stay, and so they do without `sums`."""
    rng = np.random.default_rng(3)
    machine = _machine()
    first, second = (rng.normal(0, 9, (16, 256)).astype(np.float32) for _ in range(2))
    residual = rng.normal(0, 9, (16, 128)).astype(np.float32)
    rows = {"rows": 16, "output_stride": 1024, "output": _work(TARGET)}
    _write(machine, RAW, residual)
    machine._accumulators[0, :16, :256] = first
    machine._accumulators[1, :16, :256] = second
    _post(machine, op=int(PostOp.STORE), blocks=2, sums=int(SumMode.BEGIN), **rows)
    _post(machine, op=int(PostOp.ADD), blocks=1, acc_bank=1, sums=int(SumMode.ON),
          input=_work(RAW), input_stride=512, **rows)  # fmt: skip
    _post(machine, op=int(PostOp.STORE), blocks=2, acc_bank=1, **rows)
    _post(machine, op=int(PostOp.SUMS), rows=1, blocks=2, output=_work(TABLE))
    values, squares = unpack(machine.memory[Region.WORK][TABLE : TABLE + 256 * 16])
    both = np.concatenate([first[:, :128], second[:, :128] + residual])
    want = [sums(both[None, None]), sums(first[None, None, :, 128:])]
    for found, name in ((values, "values"), (squares, "squares")):
        expected = np.concatenate([getattr(w, name)[0] for w in want])
        assert found.tolist() == expected.tolist()
    _post(machine, op=int(PostOp.STORE), blocks=1, sums=int(SumMode.BEGIN), **rows)
    _post(machine, op=int(PostOp.SUMS), rows=1, blocks=2, output=_work(TABLE))
    again, _ = unpack(machine.memory[Region.WORK][TABLE : TABLE + 256 * 16])
    expected = np.concatenate([sums(first[None, None, :, :128]).values[0], values[128:]])
    assert again.tolist() == expected.tolist()
