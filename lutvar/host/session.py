# SPDX-License-Identifier: Apache-2.0
"""An accelerator with a packed model on it, from a URL: what a host script uses.

with Session.open("uio:lutvar", packed) as session:
    logits = session.transformer.run(steps)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from typing_extensions import Self, TypedDict, Unpack

from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.compile.pass_file import default_folder

from .device import Device
from .device_decoder import DeviceDecoder
from .dump import dump as dump_device
from .errors import BadInput, HostError, IncompatibleDevice
from .load import Progress
from .open import open_transport
from .transformer import DeviceTransformer, PassReport
from .transport import MemoryTransport


class Options(TypedDict, total=False):
    """What may be chosen for a session.

    Attributes:
        slots: images in progress at once.
        on_pass: called after each pass.
        progress: called with the bytes of the model that are in the device's memory.
        dump: file for everything that the device says, when a session, or opening it, ends with a
            HostError; not for BadInput and IncompatibleDevice, which say it all.
        decode: leave room for the maps of a packed decoder. Default: yes.
        groups: threads that may decode at the same time, each with maps of its own. Default: 1.
    """

    slots: int
    on_pass: Callable[[PassReport], None] | None
    progress: Progress | None
    dump: Path | None
    decode: bool
    groups: int


class Session:
    """One accelerator, used by one thread at a time; closing it leaves the device idle.

    Attributes:
        transport, device: what the transformer runs on.
        transformer: `lutvar.contract.passes.Transformer`.
    """

    def __init__(
        self,
        transport: MemoryTransport,
        packed: PackedTransformer,
        *,
        say: Callable[[str], None] = lambda _line: None,
        **options: Unpack[Options],
    ) -> None:
        """See `open`; takes over a transport that is open already, and closes it in the end."""
        with ExitStack() as opened:
            opened.callback(transport.close)
            self.transport = transport
            self._dump, self._say = options.get("dump"), say
            self.device = Device(transport, packed.layout.config)
            try:
                opened.enter_context(self.device)
                self.transformer = DeviceTransformer(
                    self.device, packed, options.get("slots", 1), on_pass=options.get("on_pass"),
                    keep=True, progress=options.get("progress"), cache=default_folder(),
                    decode=options.get("decode", True), groups=options.get("groups", 1),
                )  # fmt: skip
            except HostError as error:
                self._report(error)
                raise
            self._opened = opened.pop_all()

    @classmethod
    def open(
        cls,
        url: str,
        packed: PackedTransformer,
        *,
        say: Callable[[str], None] = lambda _line: None,
        **options: Unpack[Options],
    ) -> Self:
        """Open a device, check that it is the one the model was packed for, place the model.

        Args:
            url: see `lutvar.host.open`.
            packed: the model.
            say: takes a line about what takes long.
            options: see `Options`.

        Raises:
            IncompatibleDevice: another bitstream.
            MemoryMismatch: the memory does not hold the model after it was written.
            BadInput: a memory that is too small, or an unknown URL.
            HostError: what the transport raises.
        """
        transport = open_transport(url, packed.layout.config, say)
        return cls(transport, packed, say=say, **options)

    @property
    def decoder(self) -> DeviceDecoder:
        """Latent maps to images on the device. Raises BadInput where that has no decoder."""
        if self.transformer.decoder is None:
            raise BadInput(
                "the packed model has no decoder, or the session was opened without room for its "
                "maps; pack the model with one"
            )
        return self.transformer.decoder

    def close(self) -> None:
        """Leave the device idle, then release the transport. Calling it again does nothing."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, HostError):
            self._report(error)
        self.close()

    def _report(self, error: HostError) -> None:
        """Write the dump of an error, where one is wanted and the registers can explain it."""
        if self._dump is None or isinstance(error, (BadInput, IncompatibleDevice)):
            return  # a stranger's registers are not for us to read
        # The device may be gone, or the disk full; the error itself goes on.
        with suppress(HostError, OSError, ValueError):
            dump_device(self.device, self._dump, error)
            self._say(f"{self._dump}: all registers of the device, for a report")
