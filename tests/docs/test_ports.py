# SPDX-License-Identifier: Apache-2.0
"""Every port of the gateware is an annotation with its own comment: direction and meaning.

`name: In(width)  #: meaning`, or, when the signature depends on parameters and is made in the
constructor, `name: Signal  #: in: meaning`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HW = Path(__file__).parents[2] / "lutvar/hw"
#: Types that ports have, see `lutvar.hw.port_types`.
_PORT = re.compile(r"(In|Out)\(|(list\[)?(Signal|View|Stream|RegisterBus|Axi\w+Port)\b")
_COMMENT = re.compile(r"^\s*#: (.*)$|  #: (.*)$")


def _comment(lines: list[str], node: ast.AnnAssign) -> str:
    """The `#:` comment in the annotation's line, else the one above it."""
    if found := _COMMENT.search(lines[(node.end_lineno or node.lineno) - 1]):
        return found[1] or found[2]
    first, above = "", node.lineno - 2
    while found := re.match(r"\s*#: (.*)$", lines[above]):
        first, above = found[1], above - 1
    return first


def _ports(source: str, cls: ast.ClassDef) -> dict[str, tuple[str, str]]:
    """Port -> (type, comment)."""
    lines = source.splitlines()
    return {
        node.target.id: (ast.unparse(node.annotation), _comment(lines, node))
        for node in cls.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _members(cls: ast.ClassDef) -> dict[str, str]:
    """Ports that the class gives to `super().__init__` in a literal: name -> `In` or `Out`."""
    result: dict[str, str] = {}
    for node in ast.walk(cls):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "super().__init__"):
            continue
        for argument in node.args:
            if isinstance(argument, ast.Dict):
                for key, value in zip(argument.keys, argument.values, strict=True):
                    if isinstance(key, ast.Constant):
                        result[str(key.value)] = ast.unparse(value).split("(")[0]
    return result


def _faults(source: str) -> Iterator[str]:
    classes = {n.name: n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)}
    for cls in classes.values():
        if any(re.search("Signature|Protocol", ast.unparse(base)) for base in cls.bases):
            continue  # types of interfaces; their signatures are documented where they are made
        ports = _ports(source, cls)
        known = dict(ports)
        for base in cls.bases:
            if (name := ast.unparse(base)) in classes:
                known |= _ports(source, classes[name])
        for port, (kind, comment) in ports.items():
            if _PORT.match(kind) and not comment:
                yield f"{cls.name}.{port} has no comment"
        # A base of another module has the ports that are not here.
        foreign = any("wiring" not in (b := ast.unparse(x)) and b not in classes for x in cls.bases)
        for port, direction in _members(cls).items():
            if port not in known:
                if not foreign:
                    yield f"{cls.name}.{port} is not annotated"
            elif not known[port][1].startswith(f"{direction.lower()}: "):
                yield f"{cls.name}.{port}: the comment does not start with {direction.lower()!r}"


def test_what_counts() -> None:
    source = """
class A(wiring.Component):
    a: In(1)
    b: Signal  #: out: b
    #: in: over
    #: two lines
    c: View
    def __init__(self):
        super().__init__({"b": In(n), "c": In(m), "d": Out(n)})
"""
    assert list(_faults(source)) == [
        "A.a has no comment",
        "A.b: the comment does not start with 'in'",
        "A.d is not annotated",
    ]


def test_every_port_is_annotated_and_documented() -> None:
    faults = [
        f"{path.relative_to(HW)}: {fault}"
        for path in sorted(HW.rglob("*.py"))
        for fault in _faults(path.read_text("utf-8"))
    ]
    assert not faults, "\n".join(faults)
