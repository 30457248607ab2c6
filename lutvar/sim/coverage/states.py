# SPDX-License-Identifier: Apache-2.0
"""State machines: their states and transitions from the sources, and wires that show them.

The exported Verilog holds states as numbers, in the order in which the source mentions them. For a
coverage build each transition that the source allows becomes a wire, `fsm_<from>_to_<to>`, so that
its toggles are counted like any other signal's.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from importlib import util
from pathlib import Path

#: End of a module's name in Verilog -> the source of its state machine.
MACHINES = {
    "sequencer": "lutvar.hw.sequencer.sequencer",
    "unit_post__prepare": "lutvar.hw.post.prepare",
    "unit_post__operands": "lutvar.hw.post.operands",
    "unit_attend__sorter": "lutvar.hw.attend.sorter",
    "unit_attend__scores": "lutvar.hw.attend.scores",
    "unit_attend__key_addresses": "lutvar.hw.attend.addresses",
}


@dataclass(frozen=True)
class Machine:
    """A state machine: states in order of their numbers, transitions by name."""

    states: tuple[str, ...]
    transitions: tuple[tuple[str, str], ...]


class _Reader:
    """Walks a function as Amaranth executes it, local functions included."""

    def __init__(self, functions: dict[str, ast.FunctionDef]) -> None:
        self.functions = functions
        self.states: list[str] = []
        self.transitions: list[tuple[str, str]] = []
        self.state = ""

    def mention(self, name: str) -> None:
        if name not in self.states:
            self.states.append(name)

    def walk(self, nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.With):
                outer, state = self.state, _call(node.items[0].context_expr, "State")
                if state is not None:
                    self.mention(state)
                    self.state = state
                self.walk(node.body)
                self.state = outer
            elif isinstance(node, ast.For | ast.If):
                self.walk(node.body)
                self.walk(node.orelse)
            elif isinstance(node, ast.Assign) and _is_next(node.targets[0]):
                target = ast.literal_eval(node.value)
                self.mention(target)
                if self.state and (self.state, target) not in self.transitions:
                    self.transitions.append((self.state, target))
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                called = node.value.func
                if isinstance(called, ast.Name) and called.id in self.functions and self.state:
                    self.walk(self.functions[called.id].body)


def _call(node: ast.expr, name: str) -> str | None:
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == name
        and node.args
    ):
        return str(ast.literal_eval(node.args[0]))
    return None


def _is_next(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "next"


def machine_of(source: str) -> Machine:
    """The only state machine in a Python source."""
    tree = ast.parse(source)
    reader = _Reader({n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)})
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and _is_fsm(node):
            assert not reader.states, "two state machines in one source"
            reader.walk(node.body)
    return Machine(tuple(reader.states), tuple(reader.transitions))


def _is_fsm(node: ast.With) -> bool:
    call = node.items[0].context_expr
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "FSM"
    )


def machines() -> dict[str, Machine]:
    """All state machines by the end of their module's name."""
    found = {}
    for name, module in MACHINES.items():
        spec = util.find_spec(module)
        assert spec is not None and spec.origin is not None
        found[name] = machine_of(Path(spec.origin).read_text(encoding="utf-8"))
    return found


def machine_name(module: str) -> str | None:
    """Which machine a Verilog module holds, by its name with or without a number at its end."""
    plain = re.sub(r"_\d+$", "", module)
    return next((name for name in MACHINES if plain.endswith(name)), None)


def with_transitions(verilog: str) -> tuple[str, set[str]]:
    """The Verilog with wires for all transitions, and the names of machines that it holds."""
    known, held = machines(), set()

    def extend(match: re.Match[str]) -> str:
        module, body = match[1], match[0]
        state = re.search(r"reg \[(\d+):0\] fsm_state = ", body)
        if state is None:
            return body
        name = machine_name(module)
        assert name is not None, f"{module} has a state machine that MACHINES does not list"
        clock = re.search(r"@\(posedge (\w+)\)", body)
        assert clock is not None
        machine = known[name]
        held.add(name)
        lines = [f"  reg [{state[1]}:0] fsm_before = 0;",
                 f"  always @(posedge {clock[1]}) fsm_before <= fsm_state;"]  # fmt: skip
        for a, b in machine.transitions:
            i, j = machine.states.index(a), machine.states.index(b)
            lines.append(f"  wire {wire(a, b)} = fsm_before == {i} && fsm_state == {j};")
        return body.removesuffix("endmodule") + "\n".join(lines) + "\nendmodule"

    text = re.sub(r"^module (\w+)\(.*?^endmodule", extend, verilog, flags=re.M | re.S)
    return text, held


def wire(before: str, after: str) -> str:
    """Name of the wire of a transition."""
    return f"fsm_{before}_to_{after}".lower()
