# SPDX-License-Identifier: Apache-2.0
"""Which outputs of a component follow its inputs within the cycle."""

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Fragment, Value
from amaranth.hdl import _nir as _typed_nir
from amaranth.hdl._ir import PortDirection, build_netlist
from amaranth.lib import wiring
from amaranth.lib.wiring import In

#: Its stubs leave out the attributes of cells.
_nir: Any = _typed_nir
#: Cells whose outputs are registers'.
_CLOCKED = (_nir.FlipFlop, _nir.SyncReadPort)
#: Operators that treat each bit on its own.
_BITWISE = {"~", "&", "|", "^"}


def _sources(cell: Any, bit: int) -> Iterator[Any]:
    """Nets that an output bit of a cell depends on within the cycle."""
    if isinstance(cell, _CLOCKED):
        return
    if isinstance(cell, _nir.Operator):
        if cell.operator in _BITWISE and all(len(i) == cell.width for i in cell.inputs):
            yield from (value[bit] for value in cell.inputs)
        elif cell.operator == "m":
            yield from (cell.inputs[0][0], cell.inputs[1][bit], cell.inputs[2][bit])
        else:
            for value in cell.inputs:
                yield from value
    elif isinstance(cell, _nir.Part):
        yield from (*cell.value, *cell.offset)
    elif isinstance(cell, _nir.Matches):
        yield from cell.value
    elif isinstance(cell, _nir.PriorityMatch):
        yield from (cell.en, *cell.inputs)
    elif isinstance(cell, _nir.AssignmentList):
        yield cell.default[bit]
        for item in cell.assignments:
            if item.start <= bit < item.start + len(item.value):
                yield from (item.cond, item.value[bit - item.start])
    elif isinstance(cell, _nir.AsyncReadPort):
        yield from cell.addr
    else:
        raise TypeError(f"{type(cell).__name__} is a cell that this helper does not know")


def combinational_paths(component: wiring.Component) -> set[tuple[str, str]]:
    """(input, output) of every pair of ports with a path that no register cuts.

    Names are joined by two underscores, as in Verilog.
    """
    ports = {
        "__".join(map(str, path)): (
            Value.cast(value),
            PortDirection.Input if member.flow is In else PortDirection.Output,
        )
        for path, member, value in component.signature.flatten(component)
    }
    netlist = build_netlist(Fragment.get(component, None), ports)
    inputs = {
        _nir.Net.from_cell(0, start + bit): name
        for name, (start, width) in netlist.top.ports_i.items()
        for bit in range(width)
    }
    result = set()
    for name, value in netlist.top.ports_o.items():
        stack, seen = list(value), set()
        while stack:
            net = stack.pop()
            if net in seen or net.is_const:
                continue
            seen.add(net)
            if net in inputs:
                result.add((inputs[net], name))
            elif net.cell:
                stack += _sources(netlist.cells[net.cell], net.bit)
    return result
