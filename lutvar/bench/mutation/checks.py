# SPDX-License-Identifier: Apache-2.0
"""What a mutant has to survive: the checks of `lutvar fuzz` on chosen programs, cheapest first.

Each check compares with the interpreter, the rules or the register table, never with another run
of the gateware.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import (
    HEADER_FIELDS,
    PAYLOAD_FIELDS,
    PROGRAM_HEADER,
    Opcode,
    OperandField,
    PostOp,
)
from lutvar.contract.register_map import BY_NAME, MAGIC, REGISTERS, VERSION
from lutvar.contract.register_types import ADDRESS_BITS, Access
from lutvar.sim.fuzz.bench import Bench
from lutvar.sim.fuzz.case import Step
from lutvar.sim.fuzz.events import WATCHDOG, Event, Timing, directions, random_timing
from lutvar.sim.fuzz.malformed import bytes_of, get, malform, put, words_of
from lutvar.sim.fuzz.oracle import Oracle
from lutvar.sim.fuzz.rules import misfit, refusal
from lutvar.sim.fuzz.wellformed import Generator

from .common import Check, steps_check
from .counters import counters, unsolicited, unsolicited_anywhere
from .crowds import KINDS, Crowd, slow_writes
from .stuck import states, stuck_steps
from .windows import high_addresses, program_outside, transfers_outside


def _identity(bench: Bench, _oracle: Oracle) -> str:
    config = bench.config
    digest = accelerator_hash(config)
    values = {"MAGIC": MAGIC, "VERSION": VERSION, "HASH_LO": digest & 0xFFFFFFFF,
              "HASH_HI": digest >> 32}  # fmt: skip
    for name, value in values.items():
        if bench.read(name) != value:
            return f"{name} is {bench.read(name):#x}"
    caps = {
        "CAPS0": {
            "rows": config.rows, "code_bits": config.quant_config.code_bits,
            "kv_bits": config.kv.bits, "act_banks": config.act_banks,
            "acc_banks": config.acc_banks, "attention_rows": config.attention_rows,
        },
        "CAPS1": {"bank_groups": config.bank_groups, "acc_depth": config.acc_depth,
                  "queue": config.queue},
        "CAPS2": {
            "max_width": config.max_width, "max_keys": config.max_keys,
            "weight_ports": config.weight_ports, "max_sections": config.max_sections,
        },
    }  # fmt: skip
    for name, fields in caps.items():
        word = bench.read(name)
        for item, value in fields.items():
            if BY_NAME[name].field_value(word, item) != value:
                return f"{name}.{item} is {BY_NAME[name].field_value(word, item)}"
    return ""


def _reset_values(bench: Bench, _oracle: Oracle) -> str:
    """What a driver may rely on before it writes anything."""
    bench.device.reset()
    words = {r.name: (bench.read(r.name), r.reset) for r in REGISTERS if r.access is Access.RW}
    bench.open()
    wrong = [f"{n} is {v:#x} after a reset" for n, (v, reset) in words.items() if v != reset]
    return wrong[0] if wrong else ""


def _bus(bench: Bench, _oracle: Oracle) -> str:
    """Each address: what can be written and read back, with which strobe, what is refused."""
    device = bench.device
    by_offset = {r.offset: r for r in REGISTERS}
    for offset in [*range(0, 0x200, 4), 0x7C + 0x400, 0x801, 0x7E, (1 << ADDRESS_BITS) - 4]:
        expected = 0 if offset in by_offset else 2
        value, response = device.reg_read(offset, (0, offset % 3))
        if response != expected or (expected and value):
            return f"a read of {offset:#x} gave {value:#x}, response {response}"
        register = by_offset.get(offset)
        fixed = register is None or register.access is Access.RO
        if fixed and device.reg_write(offset, 0xFFFFFFFF, late=(offset % 3, 0, 1)) != 2:
            return f"a write to {offset:#x} was not refused"
    words = [r for r in REGISTERS if r.access is Access.RW and not r.fields and r.name != "CTRL"]
    patterns = {r.name: 0x12345678 ^ i * 0x9E3779B1 & 0xFFFFFFFF for i, r in enumerate(words)}
    kept = {r.name: bench.read(r.name) for r in words}
    for name, pattern in patterns.items():
        bench.write(name, pattern)
    values = {name: bench.read(name) for name in patterns}
    for number in range(32):  # the data behind their address, and before it
        strobe, late = number % 16, (0, 3, 0) if number < 16 else (3, 0, 0)
        device.reg_write(BY_NAME["SCRATCH"].offset, 0xA5C3_0F96 ^ number, strobe, late)
        mask = sum(0xFF << 8 * i for i in range(4) if strobe >> i & 1)
        patterns["SCRATCH"] = patterns["SCRATCH"] & ~mask | (0xA5C3_0F96 ^ number) & mask
        if bench.read("SCRATCH") != patterns["SCRATCH"]:
            return f"SCRATCH is {bench.read('SCRATCH'):#x} after a write with strobe {strobe:#x}"
    for name, value in kept.items():
        bench.write(name, value)
    for name, value in values.items():
        aligned = patterns[name] if name != "SCRATCH" else values[name]
        if value != aligned and value != aligned & ~0x3F:
            return f"{name} is {value:#x}, {aligned:#x} was written"
    return ""


def _boundaries(config: AcceleratorConfig, step: Step, ends: bool = False) -> Iterator[Step]:
    """The program with each field at values around its limits, where a rule refuses that.

    ends: only the largest values of what an instruction asks for.
    """
    words = words_of(step.program)
    limits = {
        config.rows, config.act_banks, config.acc_banks, config.bank_groups, config.max_keys,
        config.row_groups, config.max_width // 64, config.max_width // 128, 16,
        config.acc_depth // 32, config.acc_depth // 128,
    }  # fmt: skip
    seen: set[object] = set()
    kind = next(item for item in PAYLOAD_FIELDS[Opcode.POST] if item.name == "op")

    def changed(at: int, item: OperandField, value: int) -> Step | None:
        new = list(words)
        new[at] = put(words[at], item, value)
        if new[at] == words[at]:
            return None
        other = replace(step, program=bytes_of(new), right=False)
        return other if refusal(config, new) is not None else None

    for at, word in enumerate(words):
        opcode = Opcode(get(word, HEADER_FIELDS[0])) if at else None
        group = (opcode, get(word, kind) if opcode is Opcode.POST else 0)
        if opcode is not None and group in seen and opcode is not Opcode.END:
            continue
        seen.add(group)
        fields = (*HEADER_FIELDS, *PAYLOAD_FIELDS[opcode]) if opcode else PROGRAM_HEADER
        for item in fields:
            if item.kind == "address" or item.name.endswith("stride"):
                values = {get(word, item) ^ 1 << bit for bit in range(6)}
            elif item.name in ("magic", "hash", "mark", "zero", "index", "opcode"):
                values = {get(word, item) ^ 1 << bit for bit in range(0, item.width, 3)}
            else:
                values = {0, (1 << item.width) - 1, *(n + 1 for n in limits)}
            if ends:
                top = (1 << item.width) - 1
                values = {top} if opcode and item in PAYLOAD_FIELDS[opcode] else set()
            for value in sorted(values):
                if (other := changed(at, item, value)) is not None:
                    yield other
        if opcode is not None and not ends:  # bits that no field has
            used = sum((1 << f.width) - 1 << f.low for f in fields)
            for bit in range(128, 512, 13):
                if not used >> bit & 1:
                    new = list(words)
                    new[at] ^= 1 << bit
                    yield replace(step, program=bytes_of(new), right=False)


def _some(rng: np.random.Generator, steps: list[Step], count: int) -> list[Step]:
    """So many of the steps, in their order."""
    numbers = rng.choice(len(steps), min(count, len(steps)), replace=False)
    return [steps[int(number)] for number in sorted(numbers)]


def _one_beat(config: AcceleratorConfig, make: Callable[[], Step]) -> list[Step]:
    """Programs with a panel that is read twice and, for the next MATRIX, one of a single beat."""
    beats, repeat = (
        next(item for item in PAYLOAD_FIELDS[Opcode.FETCH] if item.name == name)
        for name in ("beats", "repeat")
    )
    result: list[Step] = []
    for _ in range(60 if config.quant_config.dual_format is not None else 0):
        step = make()
        words = words_of(step.program)
        at = [i for i, w in enumerate(words) if i and get(w, HEADER_FIELDS[0]) == Opcode.FETCH]
        for first, second in pairwise(at):
            culprits = []
            for place in (first, second):
                new = list(words)
                new[place] = put(words[place], beats, 1)
                culprits.append(misfit(config, new))
            told_apart = None not in culprits and culprits[0] != culprits[1]
            if get(words[first], repeat) == 2 and told_apart:
                result.append(replace(step, program=bytes_of(new), right=False))
                break
        if len(result) == 4:
            break
    return result


def _has(step: Step, op: PostOp) -> bool:
    """A program has a POST of a kind."""
    fields = {item.name: item for item in PAYLOAD_FIELDS[Opcode.POST]}
    return any(
        get(word, HEADER_FIELDS[0]) == Opcode.POST and get(word, fields["op"]) == op
        for word in words_of(step.program)[1:]
    )


def checks(config: AcceleratorConfig, seed: int = 11) -> list[Check]:
    """All checks, in the order in which they run."""
    rng = np.random.default_rng(seed)

    def make(small: bool, length: int, timing: Timing | None = None) -> Step:
        made = Generator(config, rng, small=small).make(length)
        return Step(made.program.encode(), True, made.fills, timing or Timing())

    def crowd(i: int, op: PostOp | None = None) -> Step:
        made = Crowd(config, rng, small=i % 3 < 2).crowd(KINDS[i % len(KINDS)], 24, op)
        timing = random_timing(rng, config) if i % 2 else Timing()
        return Step(made.program.encode(), True, made.fills, timing)

    probe = make(True, 8)
    records = make(True, 10)
    while not _has(records, PostOp.QKV):
        records = make(True, 10)
    ends = list(_boundaries(config, records, ends=True))
    edges = [*_boundaries(config, probe), *_boundaries(config, records)]
    result = [
        Check("identity", _identity),
        steps_check("small program", [probe]),
        steps_check("small programs", [make(True, 10) for _ in range(3)]),
        Check("bus", _bus),
        Check("registers after a reset", _reset_values),
        steps_check("programs", [make(False, 12) for _ in range(6)]),
        steps_check("programs, slow memory", [
            make(bool(i % 2), 14, random_timing(rng, config)) for i in range(10)
        ]),
        Check("counters", counters([make(False, 10), make(True, 10), make(False, 10)])),
        steps_check("boundaries", [*ends, *_some(rng, edges, 250), probe],
                    control=True),
    ]  # fmt: skip
    result += [
        Check("outside", transfers_outside(probe), True),
        Check("unsolicited", unsolicited(make(True, 20)), True),
        Check("unsolicited anywhere", unsolicited_anywhere(records), True),
        Check("program outside", program_outside(probe), True),
        Check("outside by records", transfers_outside(records, elsewhere=True), True),
        Check(
            "high addresses",
            high_addresses(
                [probe, records, *(make(i > 0, 16, random_timing(rng, config)) for i in range(3))]
            ),
            True,
        ),
        steps_check("crowds", [crowd(i) for i in range(12)]),
        steps_check("records", [crowd(2 + 12 * (i > 0), PostOp.QKV) for i in range(6)]),
        steps_check("attention", [crowd(4 * i) for i in range(2, 8)]),
    ]
    refused: list[Step] = []
    while len(refused) < 30:
        raw = malform(rng, make(False, 12).program)
        if refusal(config, words_of(raw)) is not None and len(raw) > 64:
            refused.append(Step(raw, False, ()))
    refused += _one_beat(config, lambda: make(False, 12))
    result.append(steps_check("malformed", [*refused, probe], control=True))
    events: list[Step] = []
    slow = Timing(3)
    for port in directions(config):
        for number, response in ((1, 2), (2, 3)):
            event = Event("refuse", {"port": port, "number": number, "response": response})
            events += [replace(make(True, 10), event=event), probe]
    result.append(steps_check("refused bursts", events, control=True))

    def resets(kind: str, cycles: Sequence[int], small: bool) -> list[Step]:
        """Resets in the middle of programs, each followed by a right one."""
        result = []
        for i, cycle in enumerate(cycles):
            values = {"cycle": cycle}
            if kind == "hard_reset":
                values |= {"cycles": (8, 1, 2)[i % 3], "keep": 1}
            result += [replace(make(small, 10, slow), event=Event(kind, values)), probe]
        return result

    result.append(
        steps_check(
            "soft resets", resets("soft_reset", (20, 90, 170, 300, 450), True), control=True
        )
    )
    result.append(
        steps_check("hard resets", resets("hard_reset", (40, 150, 260, 400), True), control=True)
    )
    events = []
    for i in range(3):
        storm = Event("storm", {"cycle": 10, "count": 60, "seed": i})
        events.append(replace(make(False, 8), event=storm))
    result.append(steps_check("register accesses", events, control=True))
    holds = []
    for port in directions(config):
        hold = Event("hold", {"port": port, "cycle": 1, "cycles": 2 * WATCHDOG})
        holds += [replace(make(True, 8), event=hold), probe]
    result.append(steps_check("silent ports", holds, control=True))
    result.append(Check("states", states(stuck_steps(config, seed + 1)), True))
    events = []
    for port in directions(config):
        if port.startswith("r_"):
            for number in (1, 3):
                event = Event("wrong_last", {"port": port, "number": number})
                events += [replace(make(True, 10), event=event), probe]
    result.append(steps_check("RLAST", events, control=True))
    result.append(steps_check("more programs", [
        make(bool(i % 4 == 0), 20, random_timing(rng, config)) for i in range(16)
    ]))  # fmt: skip
    result.append(steps_check("slow writes", slow_writes(config, seed + 10)))
    any_time = [int(rng.integers(30, 2500)) for _ in range(24)]
    crowds = []
    for i in range(12):
        event = Event("soft_reset", {"cycle": int(rng.integers(60, 1200))})
        crowds += [replace(crowd(i), event=event), probe]
    result.append(steps_check("resets in crowds", crowds, control=True))
    result.append(steps_check("more resets", [
        *resets("soft_reset", any_time[:16], False), *resets("hard_reset", any_time[16:], False),
    ], control=True))  # fmt: skip
    return result
