# SPDX-License-Identifier: Apache-2.0
"""Small changes to exported Verilog, and one file that holds hundreds of them.

The export has one operator in each `assign`, so a change of a line is a change of an operator, a
condition, a constant or a bit. Lines of processes have conditions (resets, enables) and stored
values, which are changed each on its own. The file with mutants has the ports of the original;
which change is in effect is a plusarg, `+lutvar_mutant=7`, and none without it. So one build serves
them all.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

SELECT = "lutvar_mutant"  #: plusarg, and the name of the signal in every module
SELECT_BITS = 16
_TOKEN = re.compile(
    r"\\\S+ | [A-Za-z_$][\w$]* | \d+'s?[bdh][0-9a-fA-Fxz_]+ | \d+ |"
    r"<<<|>>>|===|!==|<<|>>|<=|>=|==|!=|&&|\|\||~\^|~&|~\||\(\*.*?\*\)|\S",
    re.VERBOSE,
)
_BINARY = {
    "+": ("-",), "-": ("+",), "*": ("+",), "&": ("|",), "|": ("&", "^"), "^": ("|", "~^"),
    "==": ("!=",), "!=": ("==",), "<": ("<=", ">="), "<=": ("<", ">"), ">": (">=", "<="),
    ">=": (">", "<"), "<<": (">>",), ">>": ("<<",), ">>>": (">>",), "<<<": (">>",),
    "&&": ("||",), "||": ("&&",), "~^": ("^",),
}  # fmt: skip
_UNARY = {"~": ("",), "!": ("",), "-": ("",), "&": ("|",), "|": ("&",), "^": ("~^",)}
_MODULE = re.compile(r"^module (\S+?)\((.*)$")
_INSTANCE = re.compile(r"^  (lutvar_\w+) (?!#)(\\?\S+) +\($")
_NET = re.compile(
    r"^  (?:(?:input|output|inout)\s+)?(?:wire|reg)?\s*(?:signed\s+)?(?:\[(\d+):(\d+)\]\s+)?"
    r"(\\\S+ |\w+)\s*(?:=.*)?;$"
)
_ASSIGN = re.compile(r"^  assign (.+?) = (.+);$")
_STORE = re.compile(
    r"^( +(?:else )?)(?:if \((.+?)\) )?((?:\\\S+ |\w+)\s*(?:\[[\w:\\. ]+\])?)\s*<= (.+);$"
)
_BIT = re.compile(r"[&|^] (?:\\\S+ |\w+)\[\d+\]")  #: an operator and one bit of a net
_TEST = re.compile(r"^( +(?:else )?)if \((.+)\)( begin)?$")


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        number: value of the plusarg; 0 is the original.
        module: name of the Verilog module.
        line: in the original file, from 1.
        mode: "operator", "condition", "constant", "bit" or "hold"; "enable" is the condition of a
            line in a process.
        before, after: the right side of the line or the condition; of a bit, which one and how.
    """

    number: int
    module: str
    line: int
    mode: str
    before: str
    after: str

    def as_dict(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class _Place:
    """Something in a line that can be changed.

    Attributes:
        kind: "assign", "store" (the value that a process stores) or "enable" (its condition).
        left: what is assigned to; of an enable, all before the condition.
        right: the value or the condition.
        width: bits of the value.
        bit: the right side is an operator and one bit.
    """

    module: str
    line: int
    kind: str
    left: str
    right: str
    width: int
    bit: bool = False


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)


def _join(tokens: Sequence[str]) -> str:
    """Text of tokens; an escaped name ends with a blank."""
    return " ".join([*tokens, ""])


def _depths(tokens: Sequence[str]) -> list[int]:
    """Depth of brackets before each token."""
    depths, depth = [], 0
    for token in tokens:
        if token in ")]}":
            depth -= 1
        depths.append(depth)
        if token in "([{":
            depth += 1
    return depths


def _changed_constant(token: str) -> str | None:
    """A literal with its lowest bit flipped; None for what is no literal of known bits."""
    match = re.fullmatch(r"(\d+)'(s?)([bdh])([0-9a-fA-F_]+)", token)
    if match is None:
        return None
    width, sign, base, digits = match.groups()
    value = int(digits.replace("_", ""), {"b": 2, "d": 10, "h": 16}[base]) ^ 1
    return f"{width}'{sign}h{value:x}"


def _is_zero(token: str) -> bool:
    return re.fullmatch(r"\d+'s?[bdh]0+", token) is not None


def _choices(place: _Place) -> Iterator[tuple[str, str]]:
    """(mode, new right side) of everything that can be changed in a line but single bits."""
    if place.kind == "enable":
        yield from (("enable", after) for after in (f"!({place.right})", "1'h1", "1'h0"))
        return
    if place.kind == "store":
        yield "hold", place.left
        changed = _changed_constant(place.right)
        if changed is not None:
            yield "constant", changed
        return
    tokens = [t for t in _tokens(place.right) if not t.startswith("(*")]
    depths = _depths(tokens)
    top = [i for i, depth in enumerate(depths) if depth == 0]
    mark = next((i for i in top if tokens[i] == "?"), None)
    if mark is not None:
        colon = next(i for i in top if i > mark and tokens[i] == ":")
        condition, yes, no = tokens[:mark], tokens[mark + 1 : colon], tokens[colon + 1 :]
        if yes != no:
            swapped = [*condition, "?", *no, ":", *yes]
            yield "condition", _join(swapped)
            yield "condition", _join([*condition, "?", *yes, ":", *yes])
            yield "condition", _join([*condition, "?", *no, ":", *no])
    else:
        for i in top:
            if i and tokens[i] in "|^+-" and any(map(_is_zero, tokens[i - 1 : i + 2])):
                continue  # all of them do the same
            if not i and tokens[0] in "&|^" and (place.bit or _BIT.fullmatch(place.right)):
                continue  # of one bit
            table = _BINARY if i and tokens[i - 1] not in _BINARY else _UNARY
            for other in table.get(tokens[i], ()):
                yield (
                    "operator",
                    _join([*tokens[:i], *([other] if other else []), *tokens[i + 1 :]]),
                )
    for i in top:
        constant = _changed_constant(tokens[i])
        if constant is not None:
            yield "constant", _join([*tokens[:i], constant, *tokens[i + 1 :]])


def _left_width(left: str, widths: dict[str, int]) -> int | None:
    """Bits of the left side of an assignment; None when that is not known."""
    left = left.strip()
    if left.startswith("{"):
        parts = [_left_width(part, widths) for part in left[1:-1].split(",")]
        return None if None in parts else sum(p for p in parts if p is not None)
    match = re.fullmatch(r"(\\\S+|\w+)\s*(?:\[(\d+)(?::(\d+))?\])?", left)
    if match is None:
        return None
    name, high, low = match.groups()
    if high is None:
        return widths.get(name)
    return 1 if low is None else int(high) - int(low) + 1


def _places(lines: Sequence[str]) -> dict[str, list[_Place]]:
    """Lines that can be changed, by module."""
    result: dict[str, list[_Place]] = defaultdict(list)
    module = ""
    widths: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if match := _MODULE.match(line):
            module, widths = match[1], {}
        elif line.startswith(("module ", "endmodule")):
            module = ""
        elif module and (match := _NET.match(line)):
            high, low, name = match.groups()
            widths[name.strip()] = 1 if high is None else int(high) - int(low) + 1
        elif module:
            result[module] += _places_in(module, number, line, widths)
    return result


def _places_in(module: str, number: int, line: str, widths: dict[str, int]) -> Iterator[_Place]:
    """What can be changed in a line that is no declaration."""
    if match := _ASSIGN.match(line):
        width = _left_width(match[1], widths)
        if width is not None:
            bit = widths.get(match[2].lstrip("&|^ ").strip()) == 1
            yield _Place(module, number, "assign", match[1], match[2], width, bit)
    elif match := _TEST.match(line):
        yield _Place(module, number, "enable", match[1], match[2], 1)
    elif match := _STORE.match(line):
        if match[2]:
            yield _Place(module, number, "enable", match[1], match[2], 1)
        width = _left_width(match[3], widths)
        if width is not None:
            yield _Place(module, number, "store", match[3], match[4], width)


def list_mutants(verilog: str, count: int, seed: int = 1) -> list[Mutant]:
    """`count` mutants, spread over all modules: the larger ones have more, but not in proportion.

    Raises ValueError when there are more than the selecting signal can tell apart.
    """
    if not 0 < count < 1 << SELECT_BITS:
        raise ValueError(f"{count} mutants; from 1 to {(1 << SELECT_BITS) - 1}")
    lines = verilog.splitlines()
    places = {module: rows for module, rows in _places(lines).items() if rows}
    chosen: list[tuple[str, int, str, str, str]] = []
    for module, quota in _quotas({m: len(rows) for m, rows in places.items()}, count).items():
        # A module that stays as it is keeps its mutants, whatever happens to the others.
        rng = random.Random(f"{seed} {module.split('__', 1)[-1]}")
        rows = places[module]
        taken: set[tuple[int, str]] = set()
        for place in rng.sample(rows, len(rows)) * 3:
            if len(taken) >= quota:
                break
            options = list(_choices(place))
            if place.kind != "enable" and (not options or rng.random() < 0.2):
                fixed = _changed_constant(place.right) is not None
                how = "inverted" if fixed else rng.choice(("0", "1", "inverted"))
                options = [("bit", f"bit {rng.randrange(place.width)} {how}")]
            mode, after = rng.choice(options)
            if (place.line, after) not in taken:
                taken.add((place.line, after))
                chosen.append((module, place.line, mode, place.right, after))
    return [Mutant(n, *row) for n, row in enumerate(sorted(chosen, key=lambda row: row[1]), 1)]


def _quotas(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Mutants of each module, by the square root of its size; `count` in all."""
    total = sum(size**0.5 for size in sizes.values())
    share = {module: count * size**0.5 / total for module, size in sizes.items()}
    quotas = {module: int(part) for module, part in share.items()}
    rest = sorted(share, key=lambda module: (quotas[module] - share[module], module))
    for module in rest[: count - sum(quotas.values())]:
        quotas[module] += 1
    return quotas


def _changed(mutant: Mutant, place: _Place, name: str) -> str:
    """The value of a mutant, given the name of the original value."""
    if mutant.mode != "bit":
        return mutant.after
    _, bit, how = mutant.after.split()
    mask = f"{place.width}'h{1 << int(bit):x}"
    return {"0": f"{name} & ~{mask}", "1": f"{name} | {mask}", "inverted": f"{name} ^ {mask}"}[how]


def with_mutants(verilog: str, mutants: Sequence[Mutant]) -> str:
    """The Verilog with all mutants in it. Raises ValueError for mutants of another file."""
    lines = verilog.splitlines()
    by_line: dict[int, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        by_line[mutant.line].append(mutant)
    places: dict[int, list[_Place]] = defaultdict(list)
    for rows in _places(lines).values():
        for place in rows:
            places[place.line].append(place)
    modules = {match[1] for line in lines if (match := _MODULE.match(line))}
    result: list[str] = []
    inside, pending, top = False, "", True
    for number, line in enumerate(lines, 1):
        if match := _MODULE.match(line):
            inside = True
            if top:
                result.append(line)
                pending = _top_select()
            else:
                result.append(f"module {match[1]}({SELECT}, {match[2]}")
                pending = f"  input [{SELECT_BITS - 1}:0] {SELECT};"
            top = False
        elif line.startswith(("module ", "endmodule")):
            inside = False
            result.append(line)
        elif inside and (match := _INSTANCE.match(line)) and match[1] in modules:
            result += [line, f"    .{SELECT}({SELECT}),"]
        elif number in by_line:
            result += _mutated(line, places[number], by_line[number])
        else:
            result.append(line)
        if pending and result[-1].rstrip().endswith(");"):
            result.append(pending)
            pending = ""
    return "\n".join(result) + "\n"


def _top_select() -> str:
    return (
        f"  reg [{SELECT_BITS - 1}:0] {SELECT};\n"
        f'  initial if (!$value$plusargs("{SELECT}=%d", {SELECT})) {SELECT} = 0;'
    )


def _mutated(line: str, places: Sequence[_Place], mutants: Sequence[Mutant]) -> list[str]:
    """A line that can be any of its mutants. Raises ValueError when they belong to another line.

    Each assigned value is a net of its own, as wide as the left side, so that no width changes.
    """
    known = {place.right for place in places}
    if any(m.before not in known for m in mutants):
        raise ValueError(f"line {mutants[0].line} is not what its mutants were made from")
    lines: list[str] = []
    for place in places:
        own = [m for m in mutants if (m.mode == "enable") == (place.kind == "enable")]
        if not own:
            continue
        if place.kind == "assign":
            lines += _assigned(place, own)
            line = lines.pop()
            continue
        value = place.right
        for mutant in own:
            changed = _changed(mutant, place, f"({place.right})")
            value = f"{SELECT} == {mutant.number} ? {changed} : {value}"
        if place.kind == "enable":
            line = line.replace(f"if ({place.right})", f"if ({value})", 1)
        else:
            line = line.replace(f"<= {place.right};", f"<= {value};", 1)
    return [*lines, line]


def _assigned(place: _Place, mutants: Sequence[Mutant]) -> list[str]:
    size = f"[{place.width - 1}:0]"
    original = f"{SELECT}_was_{place.line}"
    lines, value = [f"  wire {size} {original} = {place.right};"], original
    for mutant in mutants:
        name = f"{SELECT}_{mutant.number}"
        lines.append(f"  wire {size} {name} = {_changed(mutant, place, original)};")
        value = f"{SELECT} == {mutant.number} ? {name} : {value}"
    return [*lines, f"  assign {place.left} = {value};"]
