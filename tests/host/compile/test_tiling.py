# SPDX-License-Identifier: Apache-2.0
"""How passes are cut into tiles and sections: candidates, choice, what is forced."""

from __future__ import annotations

import itertools

import pytest

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Opcode, Unit
from lutvar.contract.sections import SECTIONS, head_ports, section_heads, section_port, tile_rows
from lutvar.contract.widths import FRONT_SLOTS
from lutvar.host.compile.compiler import Compiler
from lutvar.host.compile.errors import CompileError
from lutvar.host.compile.layer_plan import split_outputs
from lutvar.host.compile.model_layout import ModelLayout
from lutvar.host.compile.program import Program
from lutvar.host.compile.steps import StepShape
from lutvar.host.compile.store import PassStore
from lutvar.host.compile.tiling import array_time
from support.host.compile_cases import DIGITS, ODD, accelerator, compiler, staggered

WIDE = accelerator("small-fp4", rows=112, weight_ports=4, max_sections=4)  # seven row groups


def last_scale(shape=ODD) -> list[StepShape]:
    tokens = shape.scale_tokens
    return [StepShape(0, 3, sum(tokens[:-1]), tokens[-1], True, 0.5)]


def sections_of(program: Program) -> set[int]:
    return {
        SECTIONS[i.operands["sections"]] for i in program.instructions if i.opcode == Opcode.MATRIX
    }


@pytest.mark.parametrize("groups", range(4, 24))
@pytest.mark.parametrize("sections", SECTIONS)
def test_sections_are_apart_and_hold_their_rows(groups: int, sections: int) -> None:
    heads = section_heads(groups, sections)
    size = groups // sections
    edges = [*sorted(heads), groups]
    assert heads[0] == 0 and len(set(heads)) == sections
    assert all(b - a >= size for a, b in itertools.pairwise(edges))
    # A section is the same place in fewer sections, if it is there at all.
    assert section_heads(groups, 4)[:sections] == heads


@pytest.mark.parametrize("ports", SECTIONS)
def test_ports_of_sections(ports: int) -> None:
    """Each round every section has a port of its own; together they take the stripes in order."""
    for sections in (s for s in SECTIONS if s <= ports):
        for turn in range(8):
            mine = [section_port(k, turn, sections, ports) for k in range(sections)]
            assert len(set(mine)) == sections
            assert mine == [(turn * sections + k) % ports for k in range(sections)]
            for k, port in enumerate(mine):
                assert port == head_ports(k, sections, ports)[turn % (ports // sections)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_ports": 2, "max_sections": 4}, "weight_ports is 2"),
        ({"weight_ports": 4, "max_sections": 4, "rows": 48}, "3 groups of 16"),
        ({"weight_ports": 4, "max_sections": 3}, "1, 2 or 4"),
        ({"weight_ports": 3}, "1, 2 or 4"),
    ],
)
def test_impossible_sections_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accelerator("small-fp4", **changes)


def test_few_rows_take_all_sections() -> None:
    compiled = compiler(ODD, WIDE).compile([StepShape(0, 3, 0, 1, True, 0.5)], check=True)
    assert compiled.rows.tiles == 1 and sections_of(compiled.program) == {4}


def test_the_choice_is_the_fastest_candidate() -> None:
    own = compiler(ODD, WIDE)
    for steps in (last_scale(), staggered(ODD)):
        found = own.tilings(steps)
        assert len(found) > 2
        least = [array_time(rows) for _, rows in found]
        assert least == sorted(least)
        cycles = {t: own.compile(steps, tiling=t).cycles for t, _ in found}
        assert own.compile(steps).cycles == min(cycles.values())
        assert len(set(cycles.values())) > 1


def test_every_candidate_is_in_order() -> None:
    own, steps = compiler(ODD, WIDE), last_scale()
    most = own.most_rows(steps).rows
    for tiling, rows in own.tilings(steps):
        compiled = own.compile(steps, check=True, tiling=tiling)
        assert compiled.rows == rows
        assert rows.rows <= most == rows.used + WIDE.rows
        limits = {s: tile_rows(WIDE, s) for s in SECTIONS}
        for tile in range(rows.tiles):
            assert rows.tile(tile).count <= limits[rows.sections_of(tile)]


@pytest.mark.parametrize(("rows", "sections"), [(112, 1), (48, None), (48, 2), (16, 4), (16, 1)])
def test_forced_tiles(rows: int, sections: int | None) -> None:
    layout = ModelLayout.of(ODD, WIDE, labels=range(11))
    own = Compiler(layout, tile_rows=rows, sections=sections)
    compiled = own.compile(last_scale(), check=True)
    assert compiled.rows.tile_rows == rows
    assert max(sections_of(compiled.program)) <= (sections or 4)
    if sections == 1:
        assert sections_of(compiled.program) == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sections": 3}, "sections is 3; small-fp4 has 1, 2, 4"),
        ({"sections": 8}, "sections is 8"),
        ({"tile_rows": 24}, "tile_rows is 24; it must be a multiple of 16 up to 112"),
        ({"tile_rows": 128}, "up to 112"),
        ({"tile_rows": 0}, "tile_rows is 0"),
    ],
)
def test_impossible_tiles_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        Compiler(ModelLayout.of(ODD, WIDE, labels=range(11)), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("query_rows", "blocks"), [(5, 17), (4, 21), (16, 6), (7, 12)])
def test_query_rows_fill_their_blocks_across_tiles(query_rows: int, blocks: int) -> None:
    """81 rows of each sequence in tiles of 16: hardly a pass over the keys more than they need."""
    config = accelerator("small-fp4", attention_rows=query_rows)
    compiled = compiler(ODD, config).compile(last_scale(), check=True)
    plan, tokens = compiled.plan, last_scale()[0].tokens
    found = [i.operands for i in compiled.program.instructions if i.opcode == Opcode.ATTEND]
    rows: dict[tuple[int, int], list[int]] = {}  # of (keys' address, query of row 0)
    passes = 0
    for o in found:
        first, head = divmod(o["query"] - plan.q(0), plan.q_stride)
        for h in range(o["heads"]):
            key = o["keys_address"] + h * plan.head_stride, head // 64 + h
            rows.setdefault(key, []).extend(range(first, first + o["rows"]))
        passes += o["heads"] * -(-o["rows"] // query_rows)
    halves = {tuple(range(at, at + tokens)) for at in {r[0] for r in rows.values()}}
    assert {tuple(r) for r in rows.values()} == halves and len(halves) == 2
    assert passes == len(rows) * blocks
    assert len(rows) == 2 * ODD.heads * ODD.depth


def test_a_third_front_instruction_waits_for_the_first() -> None:
    """Short rows of many classes: what an instruction takes beyond its rows is what counts."""
    own, steps = compiler(DIGITS, accelerator("small-fp4")), staggered(DIGITS)
    line = own._scheduled(own.place(steps, own.tiling(steps))).timeline
    fronts, done = line.items[Unit.FRONT], line.done[Unit.FRONT]
    ends = [0] * FRONT_SLOTS
    held = 0
    for number, (item, before) in enumerate(itertools.pairwise(fronts), start=1):
        cost = line.costs.of(item.draft.opcode, item.draft.operands)
        free = max(item.start + cost.occupied, line.ready(before.need))
        ends.append(done[number])
        assert before.start >= ends[-FRONT_SLOTS]
        held += before.start > free
    assert held > 10


def test_without_sections_tiles_are_whole() -> None:
    own = compiler(ODD, accelerator("small-fp4"))
    assert [t.tile_rows for t, _ in own.tilings(last_scale())] == [16]


def test_a_stored_pass_keeps_its_tiles(tmp_path) -> None:
    steps = last_scale()
    first = PassStore(compiler(ODD, WIDE), tmp_path).get(steps)
    again = PassStore(compiler(ODD, WIDE), tmp_path)
    found = again.get(steps)
    assert (again.loaded, again.compiled) == (1, 0)
    assert found.rows == first.rows and found.encode() == first.encode()
    assert again.compiler._tilings == {}, "the choice is not made again"


@pytest.mark.parametrize(
    ("outputs", "depth", "sections", "counts"),
    [
        (5760, 2048, 4, [2048, 2048, 1664]), (5760, 2048, 1, [1920, 1920, 1920]),
        (7680, 2048, 4, [1536, 2048, 2048, 2048]), (128, 2048, 4, [128]), (640, 128, 4, [128] * 5),
        (1920, 2048, 2, [1920]),
    ],
)  # fmt: skip
def test_tiles_of_outputs(outputs: int, depth: int, sections: int, counts: list[int]) -> None:
    found = split_outputs(outputs, depth, sections)
    assert [n for _, n in found] == counts
    assert [first for first, _ in found] == [sum(counts[:i]) for i in range(len(counts))]


def test_configurations_with_sections_ship() -> None:
    from lutvar.contract.accelerator import load_accelerator

    config: AcceleratorConfig = load_accelerator("small-sections-fp4")
    assert (config.max_sections, config.weight_ports, config.rows) == (2, 2, 32)
