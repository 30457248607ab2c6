# SPDX-License-Identifier: Apache-2.0
"""From a URL to an open transport.

`uio:lutvar` is a board, `sim:small-fp4` needs none. Settings follow as in
`uio:lutvar?buffer=pool&clock=250`; `record=FILE` goes with every transport and writes down what
passes through it, for `replay:FILE`.

An opener is named here and imported when its URL is used: nothing heavy is loaded for the others,
and the host imports nothing of the simulation until somebody asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qsl

from lutvar.contract.accelerator import AcceleratorConfig

from .errors import BadInput
from .transport import MemoryTransport

#: Scheme -> "module:function"; the function is an `Opener`.
OPENERS: dict[str, str] = {
    "auto": "lutvar.host.board.auto:open_auto",
    "golden": "lutvar.sim.golden_device:open_golden",
    "pynq": "lutvar.host.board.pynq:open_pynq",
    "uio": "lutvar.host.board.uio:open_uio",
    "sim": "lutvar.sim.open:open_sim",
    "replay": "lutvar.host.record:open_replay",
    "xrt": "lutvar.host.board.xrt:open_xrt",
}
#: What a setting `record=FILE` wraps around any transport.
_RECORDER = "lutvar.host.record:Recorder"
#: Where /sys and /dev are looked for, when the URL has no `root`.
ROOT_VARIABLE = "LUTVAR_ROOT"


@dataclass(frozen=True)
class Address:
    """What a URL says.

    Attributes:
        scheme: "uio" and so on.
        target: what follows the colon; may be empty.
        settings: what follows a question mark.
        config: the accelerator that the caller expects, or None.
        say: takes a line about what takes long.
    """

    scheme: str
    target: str
    settings: Mapping[str, str] = field(default_factory=dict)
    config: AcceleratorConfig | None = None
    say: Callable[[str], None] = lambda _line: None

    def allow(self, *names: str) -> None:
        """Refuse settings that the scheme does not have. Raises BadInput."""
        for name in self.settings:
            if name not in names:
                known = ", ".join(names) or "none"
                raise BadInput(f"{self}: there is no setting {name!r}; {self.scheme} has: {known}")

    def number(self, name: str, default: float) -> float:
        """A setting that is a number greater than 0. Raises BadInput."""
        text = self.settings.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < 1e18:
            raise BadInput(f"{self}: {name} is {text!r}; write a number greater than 0")
        return value

    @property
    def root(self) -> Path:
        """The folder under which /sys and /dev lie: setting `root`, LUTVAR_ROOT, or "/"."""
        return Path(self.settings.get("root") or os.environ.get(ROOT_VARIABLE) or "/")

    def __str__(self) -> str:
        return f"{self.scheme}:{self.target}" if self.target else self.scheme


Opener = Callable[[Address], MemoryTransport]


def parse(
    url: str,
    config: AcceleratorConfig | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Address:
    """Take a URL apart. Raises BadInput."""
    rest, _, query = url.partition("?")
    scheme, _, target = rest.partition(":")
    if scheme not in OPENERS:
        known = ", ".join(sorted(OPENERS))
        raise BadInput(f"device {url!r}: no transport {scheme!r}; there are: {known}")
    return Address(scheme, target, dict(parse_qsl(query, keep_blank_values=True)), config, say)


def open_transport(
    url: str,
    config: AcceleratorConfig | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> MemoryTransport:
    """Open the transport that a URL names; the caller closes it.

    Args:
        url: see the module.
        config: the accelerator that is expected, for errors and for simulations.
        say: takes a line about what takes long.

    Raises:
        BadInput: an unknown scheme or setting.
        OutputError: a record that cannot be written.
        HostError: what the transport raises.
    """
    address = parse(url, config, say)
    settings = dict(address.settings)
    record = settings.pop("record", None)
    transport = _named(OPENERS[address.scheme])(replace(address, settings=settings))
    if record is None:
        return transport
    try:
        return _named(_RECORDER)(transport, record)
    except BaseException:
        transport.close()
        raise


def _named(name: str) -> Callable[..., MemoryTransport]:
    module, _, function = name.partition(":")
    found: Callable[..., MemoryTransport] = getattr(import_module(module), function)
    return found
