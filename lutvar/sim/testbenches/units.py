# SPDX-License-Identifier: Apache-2.0
"""A small hand-written program that uses every unit and every memory port, and what it must leave.

The expected memory is that of the compiler's interpreter, which runs on the golden functions.
"""

from dataclasses import asdict, dataclass

import numpy as np

from lutvar.contract.accelerator import WEIGHT_BLOCK, AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import UNITS, Instruction, Opcode, PostOp, Region, address
from lutvar.contract.memory import RECORD_BYTES, pack_panel, pack_records, panel_shares
from lutvar.contract.quant_preset import GROUP
from lutvar.host.compile.program import Program
from lutvar.quant.golden.pointwise import records
from lutvar.sim.interpret import Machine

from .common import Testbench

SIZES = {Region.MODEL: 0x1_0000, Region.WORK: 0x2000, Region.IO: 0x4000, Region.CACHE: 0x1000}
HEADS = 2
#: Offsets in WORK: FP16 rows, q records. In IO: rows to add, sums, attention's result.
QUERIES, SUMS, ATTENDED = 0x1000, 0x1800, 0x3000
VALUES = 0x800  #: offset in CACHE of the V records; K records are at 0


@dataclass(frozen=True)
class UnitsCase:
    """A program, the memory before it and the memory after it.

    Attributes:
        instructions: END included.
        before, after: contents of the regions.
    """

    config: AcceleratorConfig
    instructions: tuple[Instruction, ...]
    before: dict[Region, bytes]
    after: dict[Region, bytes]

    @property
    def raw(self) -> bytes:
        """The encoded program."""
        return Program(self.instructions, accelerator_hash(self.config)).encode()

    async def open(self, tb: Testbench) -> None:
        """Give the regions memory, and fill it."""
        await tb.open(SIZES)
        self.fill(tb)

    def fill(self, tb: Testbench) -> None:
        """Put the memory's contents before the program."""
        for region, content in self.before.items():
            tb.put(region, content)

    async def run(self, tb: Testbench) -> None:
        """Run and compare all memory, bit by bit."""
        self.fill(tb)
        await tb.run(self.raw)
        for region, expected in self.after.items():
            got = tb.get(region, 0, len(expected))
            wrong = [i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b]
            assert not wrong, (
                f"{len(wrong)} bytes of {region.name} differ; the first is {wrong[0]:#x}: "
                f"{got[wrong[0]]:#x}, expected {expected[wrong[0]]:#x}"
            )
        for unit in UNITS:
            count = sum(i.opcode.name == unit.name for i in self.instructions)
            assert await tb.read(f"INSTRUCTIONS_{unit.name}") == count, unit.name


def outputs_of(config: AcceleratorConfig) -> int:
    """Outputs of the case's layer: a stripe of 128 for each weight port."""
    return GROUP * config.weight_ports


def _operands(
    config: AcceleratorConfig, rows: int, keys: int, model: int, exponent: int
) -> list[Instruction]:
    outputs, bits = outputs_of(config), config.quant_config.code_bits
    shares = asdict(panel_shares(outputs, bits, first=True, ports=config.weight_ports))

    def work(offset: int) -> int:
        return address(Region.WORK, offset)

    def io(offset: int) -> int:
        return address(Region.IO, offset)

    return [
        Instruction(Opcode.FETCH, {
            "address": address(Region.MODEL, 0), **shares, "panels": 1, "repeat": 1,
        }),
        Instruction(Opcode.FRONT, {
            "address": work(0), "stride": 2 * GROUP, "rows": rows, "row_first": 0, "bank": 1,
            "groups": 1, "norm": 0, "rotate": 1, "dual": 0, "scale": 0, "shift": 0,
            "inverse_width": 0, "epsilon": 0, "sections": 0, "terms": 0,
        }),
        Instruction(Opcode.ATTEND, {
            "rows": rows, "heads": HEADS, "keys": keys, "query": work(QUERIES),
            "query_stride": HEADS * RECORD_BYTES, "keys_address": address(Region.CACHE, 0),
            "values_address": address(Region.CACHE, VALUES),
            "head_stride": keys * RECORD_BYTES, "output": io(ATTENDED),
            "output_stride": 2 * GROUP,
        }),
        Instruction(Opcode.MATRIX, {
            "bank": 1, "acc_bank": 1, "groups": 1, "blocks": outputs // WEIGHT_BLOCK, "dual": 0,
            "exponent": exponent, "rows": rows, "more": 0, "sections": 0, "terms": 0,
        }, (0, 1, 0, 0, 0)),
        Instruction(Opcode.POST, {
            "acc_bank": 1, "row_group": 0, "row_first": 0, "rows": rows,
            "blocks": outputs // GROUP,
            "op": int(PostOp.ADD), "vector": 1, "scalar": 0, "output": io(SUMS),
            "output_stride": 4 * outputs, "input": io(0), "input_stride": 4 * outputs,
            "vector_address": address(Region.MODEL, model), "heads": 0, "block_first": 0,
            "keys": 0, "values": 0, "head_stride": 0, "sections": 0, "shift": 0,
            "gate": 0, "sums": 0,
        }, (0, 0, 1, 0, 0)),
        Instruction(Opcode.END),
    ]  # fmt: skip


def make_units_case(
    config: AcceleratorConfig, seed: int, rows: int = 2, keys: int = 3
) -> UnitsCase:
    """A random case; rows from 1 to 3, keys from 1 to 8."""
    rng = np.random.default_rng(seed)
    weight, outputs = config.quant_config.weight_format, outputs_of(config)
    panel = pack_panel(
        rng.choice(weight.codes_used, (outputs, GROUP)).astype(np.uint8),
        rng.integers(0x2000, 0x3800, outputs, dtype=np.uint16),
        rng.standard_normal(outputs).astype(np.float32), config.quant_config.code_bits,
        config.weight_ports,
    )  # fmt: skip
    gates = rng.standard_normal(outputs).astype(np.float16)
    x = (rng.standard_normal((rows, GROUP)) * 3).astype(np.float16)
    residual = rng.standard_normal((rows, outputs)).astype(np.float32)

    def made(count: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
        y = rng.standard_normal((count * HEADS, 64)).astype(np.float32)
        kappa = (np.float16(0.2),) if kind == "q" else ()
        found = records(y, config.kv, kind, *kappa)  # type: ignore[arg-type]
        return found.codes, found.scales

    q, v, k = made(rows, "q"), made(keys, "v"), made(keys, "k")
    before = {
        Region.MODEL: panel + gates.tobytes(),
        Region.WORK: x.tobytes().ljust(QUERIES, b"\0") + pack_records(*q, config.kv).tobytes(),
        Region.IO: residual.tobytes(),
        Region.CACHE: pack_records(*k, config.kv, v[1]).tobytes().ljust(VALUES, b"\0")
        + pack_records(*v, config.kv).tobytes(),
    }
    before = {region: content.ljust(SIZES[region], b"\0") for region, content in before.items()}
    exponent = int(rng.integers(-6, -2))
    instructions = tuple(_operands(config, rows, keys, len(panel), exponent))
    machine = Machine(config, SIZES)
    for region, content in before.items():
        machine.memory[region][:] = np.frombuffer(content, np.uint8)
    machine.run(Program(instructions, accelerator_hash(config)))
    after = {region: content.tobytes() for region, content in machine.memory.items()}
    assert after[Region.IO] != before[Region.IO]
    return UnitsCase(config, instructions, before, after)
