# SPDX-License-Identifier: Apache-2.0
"""Does an instruction keep the rules of this accelerator?"""

from collections.abc import Callable, Iterator
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import (
    HEAD_DIM,
    ROW_GROUP,
    STRIPE,
    WEIGHT_BLOCK,
    AcceleratorConfig,
)
from lutvar.contract.column_sums import MAX_BLOCKS
from lutvar.contract.isa import (
    HEADER_FIELDS,
    INSTRUCTION_BYTES,
    MARK,
    PAYLOAD_FIELDS,
    Opcode,
    OperandField,
    PostOp,
)
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.register_map import InstructionRule as Rule
from lutvar.contract.sections import tile_rows
from lutvar.hw.links import INDEX_BITS, sections_of
from lutvar.hw.units.pipeline import data_register

CHECK_LATENCY = 3  #: cycles from a stable `word` to `broken`
UNUSED_PIECE = 30  #: unused bits that are looked at in one step: two levels of LUT6
WORD = INSTRUCTION_BYTES * 8


def operand(word: Value, item: OperandField) -> Value:
    """Bits of an operand within the instruction word."""
    return word[item.low : item.low + item.width]


class InstructionCheck(wiring.Component):
    """All rules at once, `CHECK_LATENCY` cycles after `word`, `index` and `last` are there."""

    word: In(WORD)  #: the instruction
    index: In(INDEX_BITS)  #: its position in the program
    last: In(1)  #: it is the last one of the program
    broken: Out(len(Rule))  #: one bit for each InstructionRule, bit 0 for the rule of value 1

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        header = {item.name: operand(self.word, item) for item in HEADER_FIELDS}
        is_end = header["opcode"] == int(Opcode.END)
        general = {
            Rule.MARK: (header["mark"] != MARK) | (header["zero"] != 0),
            Rule.INDEX: header["index"] != self.index[:16],
            Rule.OPCODE: ~Cat(header["opcode"] == int(op) for op in Opcode).any(),
            Rule.END: is_end != self.last,
        }
        # Two registers: a condition for each opcode and rule, then the opcode's choice.
        broken: dict[Rule, list[Value]] = {rule: [] for rule in Rule}
        for rule, condition in general.items():
            bit = Signal(name=f"{rule.name.lower()}_broken")
            m.d.sync += bit.eq(condition)
            broken[rule].append(bit)
        for op in Opcode:
            is_opcode = Signal(name=f"is_{op.name.lower()}")
            m.d.sync += is_opcode.eq(header["opcode"] == int(op))
            fields = {item.name: operand(self.word, item) for item in PAYLOAD_FIELDS[op]}
            conditions = {Rule.UNUSED: self._unused(m, op), **self._rules(m, op, fields)}
            for rule, condition in conditions.items():
                bit = Signal(name=f"{op.name.lower()}_{rule.name.lower()}")
                m.d.sync += bit.eq(condition)
                broken[rule].append(bit & is_opcode)
        for rule, bits in broken.items():
            m.d.sync += self.broken[int(rule) - 1].eq(Cat(bits).any())
        return m

    def _unused(self, m: Module, op: Opcode) -> Value:
        """A bit is set that no field covers; one cycle late, for there are hundreds of them."""
        used = sorted((f.low, f.low + f.width) for f in (*HEADER_FIELDS, *PAYLOAD_FIELDS[op]))
        gaps = zip([0, *(end for _, end in used)], [*(low for low, _ in used), WORD], strict=True)
        mask = sum((1 << high) - (1 << low) for low, high in gaps)
        # Pieces lie at the same places for all opcodes, so that they share what they can whole:
        # parts of each other would become long chains.
        bits = self.word & Const(mask, WORD)
        pieces = [
            low for low in range(0, WORD, UNUSED_PIECE) if mask >> low & (1 << UNUSED_PIECE) - 1
        ]
        unused = Signal(len(pieces), name=f"{op.name.lower()}_unused_pieces")
        m.d.sync += unused.eq(Cat(bits[low : low + UNUSED_PIECE].any() for low in pieces))
        return unused.any()

    def _rules(self, m: Module, op: Opcode, f: dict[str, Value]) -> dict[Rule, Value]:
        config = self._config
        rules: dict[Rule, Value] = {}
        places = [f[name] for name in _aligned(op)]
        if places:
            rules[Rule.ALIGNMENT] = Cat(place[:6] for place in places).any()
        has_dual = config.quant_config.dual_format is not None
        if "dual" in f and not has_dual:
            rules[Rule.DUAL] = f["dual"]
        if "terms" in f:
            rules[Rule.TERMS] = f["terms"] & (f["dual"] | (config.input_terms == 1))

        def total(name: str, value: Value) -> Signal:
            register = Signal(len(value), name=f"{op.name.lower()}_{name}")
            m.d.sync += register.eq(value)
            return register

        def outside(value: Value, limit: int) -> Value:
            """0 or above the limit."""
            return (value == 0) | (value > limit if limit < 1 << len(value) else Const(0))

        def many_groups() -> Value:
            """No groups, or more than a bank holds, each with its terms."""
            broken, limit = outside(f["groups"], config.bank_groups), config.bank_groups // 2
            if config.input_terms > 1:
                broken |= f["terms"] & outside(f["groups"], limit)
            return broken

        if op is Opcode.FETCH:
            counts = [f["beats"] == 0, f["panels"] == 0, f["repeat"] == 0, f["repeat"] == 3]
            rules[Rule.BEATS] = total("counts", Cat(counts)).any()
            # Several ports: the first ones have `beats`, the others fewer.
            ports = config.weight_ports
            fewer = total("fewer", f["rest"] < f["beats"]) if ports > 1 else Const(0)
            shares = outside(f["full"], ports) | Mux(f["full"] == ports, f["rest"] != 0, ~fewer)
            rules[Rule.BEATS] = rules[Rule.BEATS] | shares
        elif op is Opcode.FRONT:
            end = total("end", f["row_first"] + f["rows"])
            wide = config.max_width // GROUP
            rules[Rule.SECTIONS] = f["sections"] >= len(sections_of(config))
            rules[Rule.ROWS] = (f["rows"] == 0) | self._by_sections(
                f, lambda s: end > tile_rows(config, s)
            )
            rules[Rule.BANK] = f["bank"] >= config.act_banks
            rules[Rule.GROUPS] = many_groups() | (f["norm"] & (f["groups"] > wide))
        elif op is Opcode.MATRIX:
            banks = (f["bank"] >= config.act_banks) | (f["acc_bank"] >= config.acc_banks)
            rules[Rule.SECTIONS] = f["sections"] >= len(sections_of(config))
            rules[Rule.ROWS] = self._by_sections(
                f, lambda s: outside(f["rows"], tile_rows(config, s))
            )
            rules[Rule.BANK] = banks
            rules[Rule.GROUPS] = many_groups()
            whole = STRIPE // WEIGHT_BLOCK
            rules[Rule.OUTPUTS] = (f["blocks"][: whole.bit_length() - 1] != 0) | self._by_sections(
                f, lambda s: outside(f["blocks"], s * config.acc_depth // WEIGHT_BLOCK)
            )
        elif op is Opcode.POST:
            end = total("end", f["row_first"] + f["rows"])
            groups = self._by_sections(f, lambda s: f["row_group"] >= config.row_groups // s)
            blocks = total("blocks", f["block_first"] + f["blocks"])
            layer = total("layer", f["heads"] + f["heads"][1:])
            qkv = f["op"] == int(PostOp.QKV)
            heads = outside(f["heads"], config.max_width // HEAD_DIM) | f["heads"][0]
            rules[Rule.ROWS] = (f["rows"] == 0) | (end > ROW_GROUP)
            rules[Rule.BANK] = (f["acc_bank"] >= config.acc_banks) | groups
            rules[Rule.SECTIONS] = f["sections"] >= len(sections_of(config))
            rules[Rule.OUTPUTS] = self._by_sections(
                f, lambda s: outside(f["blocks"], s * config.acc_depth // STRIPE)
            )
            rules[Rule.OPERATION] = self._operation(f, f["blocks"] > MAX_BLOCKS)
            rules[Rule.HEADS] = qkv & (heads | (blocks > layer))
        elif op is Opcode.ATTEND:
            rules[Rule.ROWS] = f["rows"] == 0
            rules[Rule.HEADS] = outside(f["heads"], config.max_width // HEAD_DIM)
            rules[Rule.KEYS] = outside(f["keys"], config.max_keys)
        return rules

    def _operation(self, f: dict[str, Value], many: Value) -> Value:
        """An operation or sums that are not there, or not of so many blocks."""
        op, some = f["op"], f["sums"].any()
        adds = (op == int(PostOp.STORE)) | (op == int(PostOp.ADD))
        if not self._config.decoder:
            return (op > int(PostOp.QKV)) | some
        broken = (op > max(PostOp)) | f["sums"].all() | (some & ~adds)
        return broken | ((some | (op == int(PostOp.SUMS))) & many)

    def _by_sections(self, f: dict[str, Value], broken: Callable[[int], Value]) -> Value:
        """A limit that depends on the number of sections; too many of them break another rule."""
        counts = sections_of(self._config)
        result = broken(counts[0])
        for number, count in enumerate(counts[1:], start=1):
            result = Mux(f["sections"] == number, broken(count), result)
        return result


def _aligned(op: Opcode) -> Iterator[str]:
    """Fields that are multiples of 64 bytes."""
    for item in PAYLOAD_FIELDS[op]:
        if item.kind == "address" or item.name.endswith("stride"):
            yield item.name


class AddressResolver(wiring.Component):
    """Adds the base registers to an instruction's address fields, two cycles after `word`."""

    SLOTS = max(sum(f.kind == "address" for f in fields) for fields in PAYLOAD_FIELDS.values())

    word: In(WORD)  #: the instruction
    bases: In(4 * 64)  #: base address of each region (64 bits each)
    #: 64 bits for each address field of the opcode, in the order of the fields
    addresses: Out(64 * SLOTS)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        opcode = operand(self.word, HEADER_FIELDS[0])[:3]
        addresses = data_register(m, self.addresses, "resolved")
        for slot in range(self.SLOTS):
            field = Signal(40, name=f"field_{slot}", reset_less=True)
            for op in Opcode:
                places = [f for f in PAYLOAD_FIELDS[op] if f.kind == "address"]
                if slot < len(places):
                    with m.If(opcode == int(op)):
                        m.d.sync += field.eq(operand(self.word, places[slot]))
            base = self.bases.word_select(field[38:], 64)
            m.d.sync += addresses.word_select(slot, 64).eq(base + field[:38])
        return m


def first_rule(broken: Value) -> Value:
    """Value of the first broken rule, 0 when there is none."""
    result: Value = Const(0, len(Rule).bit_length())
    for rule in reversed(Rule):
        result = Mux(broken[int(rule) - 1], Const(int(rule), len(Rule).bit_length()), result)
    return result
