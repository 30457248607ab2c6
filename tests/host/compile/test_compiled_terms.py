# SPDX-License-Identifier: Apache-2.0
"""Layers with weights in two terms: where they lie, what programs compute, their file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Instruction, Opcode
from lutvar.contract.memory import unpack_panel
from lutvar.host.compile import packed as packed_module
from lutvar.host.compile.check import check_program
from lutvar.host.compile.compiler import Compiler
from lutvar.host.compile.costs import CostModel
from lutvar.host.compile.errors import CompileError, ImageError, OrderError
from lutvar.host.compile.model_layout import ModelLayout
from lutvar.host.compile.pack import pack_transformer
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.compile.program import Program
from lutvar.host.compile.steps import StepShape
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.ptq.transformer import QuantizedTransformer
from lutvar.quant.var.sites import LinearSite
from support.host.compile_cases import DIGITS, accelerator, transformer
from support.host.interpreted import Device, step

#: fc2 comes in two parts.
SITES = (LinearSite(0, "qkv"), LinearSite(1, "proj"), LinearSite(1, "fc2"), LinearSite(2, "head"))
SMALLER = {"acc_depth": 128, "act_banks": 2, "acc_banks": 2, "queue": 2}
HALVES = {"rows": 48, "weight_ports": 2, "max_sections": 2, "acc_depth": 256}


def model(preset: str = "small-fp4") -> QuantizedTransformer:
    return transformer(preset, terms=tuple((site, (2, 1)) for site in SITES))


def packed(preset: str = "small-fp4", **changes: Any) -> PackedTransformer:
    return pack_transformer(model(preset), accelerator(preset, **changes))


@pytest.mark.parametrize("changes", [{}, SMALLER, HALVES], ids=["plain", "smaller", "halves"])
def test_programs_compute_what_the_golden_transformer_does(changes: dict[str, Any]) -> None:
    rng, golden = np.random.default_rng(3), GoldenTransformer(model())
    one = GoldenTransformer(transformer("small-fp4"))
    device = Device(packed(**changes), np.random.default_rng(7))
    for shapes in ([(0, 1, 0, 1), (3, 2, 0, 1)], [(0, 1, 1, 4), (3, 2, 1, 4), (1, 0, 0, 1)]):
        steps = [step(rng, *s) for s in shapes]
        expected = golden.run(steps)
        for a, b, other in zip(device.run(steps), expected, one.run(steps), strict=True):
            np.testing.assert_array_equal(a, b)
            assert not np.array_equal(b, other)


@pytest.mark.parametrize("changes", [{}, SMALLER], ids=["plain", "smaller"])
@pytest.mark.parametrize("preset", ["fp4-single", "fp6-single"])
def test_inputs_in_two_terms(preset: str, changes: dict[str, Any]) -> None:
    """Both operands in two terms; fc2 then comes in four parts of two groups."""
    build = f"small-{preset[:3]}"
    terms = ((1, 2), (2, 2), (2, 2), (2, 2))
    coded = transformer(preset, terms=tuple(zip(SITES, terms, strict=True)))
    rng, golden = np.random.default_rng(8), GoldenTransformer(coded)
    made = pack_transformer(coded, accelerator(build, input_terms=2, **changes))
    assert [p.groups for p in made.layout.layer(1, "fc2").slices] == [2, 2, 2, 2]
    device = Device(made, np.random.default_rng(9))
    for shapes in ([(0, 1, 0, 1)], [(0, 1, 1, 4)]):
        steps = [step(rng, *s) for s in shapes]
        np.testing.assert_array_equal(device.run(steps)[0], golden.run(steps)[0])


def test_fp6() -> None:
    rng, golden = np.random.default_rng(4), GoldenTransformer(model("small-fp6"))
    steps = [step(rng, 0, 1, 0, 4)]
    device = Device(packed("small-fp6"), None)
    np.testing.assert_array_equal(device.run(steps)[0], golden.run(steps)[0])


def test_the_second_set_lies_behind_the_first() -> None:
    made, coded = packed(acc_depth=256), model()
    assert made.layout.sets == len(made.exponents) == len(made.layout.layers) + 4
    for block, site in ((1, "fc2"), (0, "head"), (0, "fc1")):
        layer, plan = coded.layer(block, site), made.layout.layer(block, site)  # type: ignore[arg-type]
        for number, weights in enumerate(layer.sets):
            index = made.layout.set_index(block, site, number)
            assert made.exponents[index] == weights.exponent
            for tile in plan.tiles:
                real = slice(tile.first, min(tile.first + tile.outputs, layer.outputs))
                count = real.stop - real.start
                for part in plan.slices:
                    for panel in plan.panels(tile, part, number):
                        first = panel.group == part.first
                        codes, scales, bias = unpack_panel(
                            made.image[panel.offset : panel.offset + panel.beats * 64],
                            tile.outputs, 4, first, 1,
                        )  # fmt: skip
                        columns = slice(panel.group * 128, panel.group * 128 + 128)
                        assert np.array_equal(codes[:count], weights.codes[real, columns])
                        assert np.array_equal(scales[:count], weights.scales[real, panel.group])
                        if bias is not None and number:
                            assert not bias.any()
    ends = [t.offset + x.panel_bytes(t) for x in made.layout.layers for t in x.tiles]
    starts = [t.offset for x in made.layout.layers for t in x.tiles]
    assert all(a <= b for a, b in zip(ends, starts[1:], strict=False))


def matrix(made: PackedTransformer) -> list[Instruction]:
    rng, device = np.random.default_rng(5), Device(made, None)
    device.run([step(rng, 0, 1, 0, 1)])
    assert device.compiled is not None
    notes = zip(device.compiled.program.notes, device.compiled.program.instructions, strict=True)
    return [i for n, i in notes if i.opcode == Opcode.MATRIX and (n.block, n.what) == (1, "fc2")]


def test_parts_come_once_for_each_set() -> None:
    """All parts with the first set, then all with the second: the order of sums has no parts."""
    found = [(i.operands["groups"], i.operands["more"]) for i in matrix(packed())]
    assert found == [(4, 0), (4, 1), (4, 1), (4, 1)]


def test_files_keep_the_terms(tmp_path: Path) -> None:
    made = packed()
    made.save(tmp_path / "m.packed")
    again = PackedTransformer.load(tmp_path / "m.packed", made.layout.config)
    assert again.layout == made.layout and again.hash == made.hash
    assert [tuple(t) for t in again.layout.terms] == [tuple(t) for t in made.layout.terms]
    plain = pack_transformer(transformer("small-fp4"), made.layout.config)
    assert "terms" not in plain._meta() and plain.layout.terms == ((1, 1),) * 9


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([[1, 1]] * 8 + [[3, 1]], r"metadata was altered \(terms .*each layer has two numbers"),
        ([[1, 1]] * 8 + [[2]], "metadata was altered"),
        (7, "metadata was altered"),
        ([[1, 1]] * 8, "terms of 8 layers; the model has 9"),
    ],
)
def test_refuses_altered_terms(tmp_path: Path, terms: Any, message: str) -> None:
    made, path = packed(), tmp_path / "m.packed"
    meta = made._meta() | {"terms": terms}
    meta["sha256"] = packed_module._digest(meta, made.image)
    path.write_bytes(b"".join(packed_module._pieces(meta, made.image)))
    with pytest.raises(ImageError, match=message):
        PackedTransformer.load(path, made.layout.config)


def test_refuses_what_no_bank_holds() -> None:
    config = accelerator(bank_groups=4, max_width=512, input_terms=2)
    terms = [(1, 1)] * 16 + [(1, 2)]
    assert ModelLayout.of(DIGITS, config, terms=terms).layer(0, "head").passes == 2
    wide = accelerator(bank_groups=1, max_width=128, input_terms=2)
    with pytest.raises(CompileError, match="head: 1 groups of inputs in 2 terms take 2 of a bank"):
        ModelLayout.of(DIGITS, wide, terms=terms)
    with pytest.raises(CompileError, match="head: inputs in 2 terms; small-fp4 has input_terms 1"):
        ModelLayout.of(DIGITS, accelerator(input_terms=1), terms=terms)
    terms[3] = (1, 2)
    with pytest.raises(CompileError, match=r"block0\.fc2: inputs in two terms in a dual format"):
        ModelLayout.of(DIGITS, config, terms=terms)


def test_needs_an_exponent_for_each_set() -> None:
    made = packed()
    with pytest.raises(CompileError, match="9 exponents; the model has 13 sets of weights in 9"):
        Compiler(made.layout, made.exponents[:9])


def two_term_head() -> tuple[Program, AcceleratorConfig]:
    """A pass of one token whose head has inputs in two terms."""
    config = accelerator(input_terms=2)
    layout = ModelLayout.of(DIGITS, config, range(11), terms=[(1, 1)] * 16 + [(1, 2)])
    compiled = Compiler(layout).compile([StepShape(0, 1, 0, 1)], check=True)
    return compiled.program, config


@pytest.mark.parametrize(
    ("opcode", "change", "message"),
    [
        (Opcode.FRONT, {"terms": 0}, r"multiplies 1 groups in 2 terms; the rows of bank \d hold"),
        (Opcode.MATRIX, {"terms": 0}, r"multiplies 1 groups in 1 terms; the rows of bank \d hold"),
        (Opcode.FRONT, {"dual": 1}, r"\(FRONT\): terms is 1, out of limits"),
        (Opcode.FRONT, {"groups": 3}, r"\(FRONT\): groups is 3, out of limits"),
        (Opcode.FETCH, {"repeat": 1}, r"group 0 needs beats, full, rest and repeats .*, 2\)"),
    ],
)
def test_the_checker_knows_terms(opcode: Opcode, change: dict[str, int], message: str) -> None:
    program, config = two_term_head()
    items = list(program.instructions)
    last = max(i for i, item in enumerate(items) if item.opcode == opcode)
    items[last] = replace(items[last], operands={**items[last].operands, **change})
    with pytest.raises(OrderError, match=message):
        check_program(replace(program, instructions=tuple(items)), config)


def test_the_checker_refuses_terms_that_a_build_lacks() -> None:
    program, _ = two_term_head()
    with pytest.raises(OrderError, match="terms is 1, out of limits"):
        check_program(program, accelerator(input_terms=1))


def test_what_terms_cost() -> None:
    program, config = two_term_head()
    costs = CostModel(config)
    costs_of = {}
    for opcode in (Opcode.FRONT, Opcode.MATRIX):
        last = [item for item in program.instructions if item.opcode == opcode][-1]
        one = replace(last, operands={**last.operands, "terms": 0})
        costs_of[opcode] = last.operands, costs.instruction(last), costs.instruction(one)
    # A row of 8 words twice, and later than once; 128 weight vectors again for each group.
    o, two, single = costs_of[Opcode.FRONT]
    assert two.occupied >= 2 * 8 * o["groups"] * o["rows"]
    assert two.occupied + two.tail > single.occupied + single.tail
    _, two, single = costs_of[Opcode.MATRIX]
    assert two.occupied - single.occupied >= 128
    last = [item for item in program.instructions if item.opcode == Opcode.MATRIX][-1]
    assert costs.instruction(last).issue == 256
