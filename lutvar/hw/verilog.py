# SPDX-License-Identifier: Apache-2.0
"""One Verilog module for many equal units, and the export of a design built that way.

Amaranth writes one module for each submodule object. An array of T x N dot products would be T x N
copies of the same text, slow to read, to compile and to synthesise. A unit that is *placed*
instead of added becomes one shared definition with many instances when Verilog is written, and an
ordinary submodule everywhere else, for example in Amaranth's own simulator. Its definition may
also be given as Verilog text.
"""

import gc
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from amaranth.back import rtlil  # type: ignore[attr-defined]  # its stubs leave this one out
from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    Fragment,
    Instance,
    Module,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring

from lutvar.hw.inspection import for_inspection

from .netlist import Batch

PREFIX = "lutvar_"  #: of every module in an exported text
_DOMAIN = "sync"
_CLOCK, _RESET = "clk", "rst"
#: Domain whose reset is the one at a definition's port, while that of `sync` may come from the
#: definition's own register (`place`, `spread`).
_ROOT = "reset_root"
_STAGE = f"{PREFIX}reset_stage"
_STAGE_TEXT = f"""\
// A stage of the reset tree: synthesis must not merge the copies.
module {_STAGE} (input clk, input d, output q);
  (* keep = "true", dont_touch = "true" *) reg stage = 1'b1;
  always @(posedge clk) stage <= d;
  assign q = stage;
endmodule
"""


class ExportPlatform:
    """Marks an elaboration that ends in Verilog, and collects the shared definitions.

    Attributes:
        registry: module name (with prefix) -> the component that defines it.
        texts: module name (with prefix) -> Verilog that defines it.
        spread: modules with a register of their own for their reset.
    """

    def __init__(self) -> None:
        self.registry: dict[str, wiring.Component] = {}
        self.texts: dict[str, str] = {}
        self.spread: set[str] = set()
        #: The module that is being elaborated may hold spread ones.
        self.spreading = True

    def register(self, module: str, component: wiring.Component, spread: bool = False) -> None:
        """Keep the first component placed under a name as the definition of that name.

        Raises:
            ValueError: a component of another type, with other ports or with another reset has
                taken the name, or the reset would come through too many registers.
        """
        if spread and not self.spreading:
            raise ValueError(
                f"module {module} is spread inside one that is not: its reset would be later than "
                "that of the others; spread the outer one too"
            )
        if module in self.registry and (module in self.spread) != spread:
            raise ValueError(f"module {module} is spread in one place only; spread it in all")
        if spread:
            self.spread.add(module)
        first = self.registry.setdefault(module, component)
        if type(first) is not type(component) or first.signature != component.signature:
            raise ValueError(
                f"module {module} is {type(first).__name__} with {first.signature!r}; it "
                f"cannot also be {type(component).__name__} with {component.signature!r}: "
                "give it another module name"
            )


def _ports(component: wiring.Component) -> list[tuple[str, Value, wiring.Flow]]:
    """Flattened ports of a component: name, value, direction."""
    return [
        ("__".join(map(str, path)), Value.cast(value), member.flow)
        for path, member, value in component.signature.flatten(component)
    ]


def place(
    m: Module, platform: Any, name: str, component: wiring.Component, module: str, *,
    spread: bool = False, reset: Value | None = None,
) -> None:  # fmt: skip
    """Add a component to a module: shared definition for export, submodule otherwise.

    In both cases the caller uses the ports of `component`. A shared unit lives in the clock
    domain `sync` and gets that domain's reset; a `ResetInserter` around the caller does not
    reach into it, so valid bits belong to the caller or the domain itself is to be reset.

    Resets form a tree of equal depth. A definition that is `spread` has a register of its own
    between its port and its `sync` domain, so no register drives the resets of two of them; spread
    ones inside it take the reset from its port, so that all leave reset in the same cycle.

    Args:
        name: name of the instance in `m`.
        module: name of the shared definition, without prefix. Components placed under one name must
            be equal: same class, same parameters.
        spread: the definition has its own register for its reset.
        reset: the reset at the instance's port, one cycle ahead of that of `sync`; default: that of
            `sync`, or when `spread` the one at the port of the definition around.
    """
    if not isinstance(platform, ExportPlatform):
        m.submodules[name] = component
        return
    # Only the first component of a name is elaborated; the others need no warning for that.
    for_inspection(component)
    platform.register(PREFIX + module, component, spread)
    if reset is None:
        reset = ResetSignal(_ROOT if spread else _DOMAIN)
    connections: list[tuple[str, str, Any]] = [
        ("i", _CLOCK, ClockSignal(_DOMAIN)),
        ("i", _RESET, reset),
    ]
    for port, value, flow in _ports(component):
        connections.append(("i" if flow is wiring.In else "o", port, value))
    m.submodules[name] = Instance(PREFIX + module, *connections)


def _stage(platform: ExportPlatform, clock: Value, reset: Value, later: Value) -> Instance:
    platform.texts[_STAGE] = _STAGE_TEXT
    return Instance(_STAGE, ("i", _CLOCK, clock), ("i", "d", reset), ("o", "q", later))


def reset_stage(m: Module, platform: Any, domain: str, reset: Value, name: str) -> Signal:
    """`reset` a cycle later, high after power-up: a stage of the reset tree.

    Equal stages stay apart in the exported text and in synthesis.
    """
    later = Signal(name=name, init=1, reset_less=True)
    if isinstance(platform, ExportPlatform):
        m.submodules[f"{name}_stage"] = _stage(platform, ClockSignal(domain), reset, later)
    else:
        m.d[domain] += later.eq(reset)
    return later


def instantiate(
    m: Module,
    platform: ExportPlatform,
    name: str,
    module: str,
    verilog: str,
    *,
    parameters: Mapping[str, int],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
) -> None:
    """Add an instance of a module that is given as Verilog text, `clk` included.

    For what Amaranth can describe only at great length. The text defines `lutvar_<module>` and is
    written once.

    Raises:
        ValueError: another text has taken the name.
    """
    full = PREFIX + module
    if platform.texts.setdefault(full, verilog) != verilog or full in platform.registry:
        raise ValueError(f"module {full} has another definition already; rename one of them")
    m.submodules[name] = Instance(
        full,
        ("i", _CLOCK, ClockSignal(_DOMAIN)),
        *(("p", key, value) for key, value in parameters.items()),
        *(("i", port, value) for port, value in inputs.items()),
        *(("o", port, value) for port, value in outputs.items()),
    )


def _rtlil(
    component: Any, name: str, platform: ExportPlatform, ports: Mapping[str, Any] | None
) -> str:
    """Netlist of one definition with all hierarchy inside it, in RTLIL."""
    spread = name in platform.spread
    # A definition that is exported on its own has nothing around it that resets later.
    platform.spreading = spread or name not in platform.registry
    fragment = Fragment.get(component, platform)
    if ports is None:
        # Clock and reset are ports even of a unit that uses neither, so that every instance can
        # connect both without looking inside.
        domain: Any = ClockDomain(_DOMAIN)  # its stubs leave out clk and rst
        root: Any = ClockDomain(_ROOT)
        root.clk = domain.clk
        ports = {
            _CLOCK: (domain.clk, PortDirection.Input),
            _RESET: (root.rst, PortDirection.Input),
        }
        if spread:
            domain.rst = Signal(name="reset_leaf", init=1)
            fragment.add_subfragment(_stage(platform, domain.clk, root.rst, domain.rst), "leaf")
        else:
            domain.rst = root.rst
        fragment.add_domains(domain, root)
        for port, value, flow in _ports(component):
            ports[port] = (
                value,
                PortDirection.Input if flow is wiring.In else PortDirection.Output,
            )
    text, _names = rtlil.convert_fragment(fragment, ports, name, emit_src=False)
    # Amaranth joins the names of nested modules with dots, which Verilog would have to escape.
    return re.sub(
        r"^(\s*(?:module|cell) \\)([\w.$]+)",
        lambda match: match[1] + match[2].replace(".", "__").replace("$", "_"),
        text,
        flags=re.MULTILINE,
    )


@contextmanager
def _without_sweeps() -> Iterator[None]:
    """Elaboration makes millions of objects that live until its end: looking for garbage among
    them again and again takes 40 % of the time and finds little."""
    swept = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if swept:
            gc.enable()


def with_prefix(verilog: str, prefix: str) -> str:
    """Give the modules of an exported text another prefix than `PREFIX`; nothing else changes."""
    names = set(re.findall(rf"^module ({PREFIX}\w+)", verilog, flags=re.MULTILINE))

    def renamed(match: re.Match[str]) -> str:
        return prefix + match[1] if match[0] in names else match[0]

    return re.sub(rf"\b{PREFIX}(\w+)", renamed, verilog)


def export_verilog(top: Any, name: str, ports: Mapping[str, Any] | None = None) -> str:
    """Write a design as one self-contained text of plain Verilog.

    The text depends on the design and on the Yosys that Amaranth uses, on nothing else: no paths,
    no dates, no hash order. Definitions placed with `place` follow the top, in order of
    first use.

    Args:
        top: component, or any elaboratable when `ports` is given.
        name: module name of the top; starts with `lutvar_`.
        ports: port name -> (signal, direction) as in `amaranth.back.verilog.convert`; default:
            the component's signature, with `clk` and `rst`.

    Returns:
        Verilog-2005 text.

    Raises:
        ValueError: the name lacks the prefix, or two definitions share a name.
        YosysError: Yosys is missing, too old, or failed.
    """
    if not name.startswith(PREFIX):
        raise ValueError(f"the top is named {name!r}; every module name starts with {PREFIX!r}")
    platform = ExportPlatform()
    with _without_sweeps(), ThreadPoolExecutor(1) as writer:
        batches = [Batch(_rtlil(top, name, platform, ports))]
        written: list[str] = []
        while pending := [module for module in platform.registry if module not in written]:
            for module in pending:  # elaborating one may register more
                if batches[-1].full:  # Yosys works on it while the next ones are elaborated
                    batches[-1].start(writer)
                    batches.append(Batch())
                batches[-1].texts.append(_rtlil(platform.registry[module], module, platform, None))
                written.append(module)
        modules = [module for batch in batches for module in batch.modules()]
        modules += platform.texts
        if repeated := sorted({module for module in modules if modules.count(module) > 1}):
            raise ValueError(
                f"modules {repeated} are defined twice; rename the units that make them"
            )
        batches[-1].start(writer)
        return "\n".join([*(batch.verilog() for batch in batches), *platform.texts.values()])
