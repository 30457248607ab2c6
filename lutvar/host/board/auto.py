# SPDX-License-Identifier: Apache-2.0
"""`auto` for `lutvar.host.open`: the board that is there, through UIO and u-dma-buf.

What it looks at are names in sysfs: reading registers of devices that may be others' could disturb
them. Overlays of PYNQ and xclbins of XRT are files that a user names; nothing is there to be found.
"""

from __future__ import annotations

from dataclasses import replace

from lutvar.host.open import Address

from .errors import NoDevice
from .files import Files
from .sysfs import BUFFER_NAME, UIO_NAME, buffer_names, find_buffer, find_uio, uio_names
from .uio import UioTransport, open_uio


def open_auto(address: Address) -> UioTransport:
    """Open the one UIO device, and the one buffer, whose names begin with those of the fragment.

    Settings: those of `uio`.

    Raises:
        NoDevice: none, or several; the message lists them.
        HostError: what `uio` raises.
    """
    files = Files.under(address.root)
    names = [name for name in uio_names(files) if name.startswith(UIO_NAME)]
    buffers = [name for name in buffer_names(files) if name.startswith(UIO_NAME)]
    wanted = address.settings.get("buffer")
    if not names:
        find_uio(files, UIO_NAME)  # says what is missing
    if len(names) > 1:
        raise NoDevice("one UIO device", f"{UIO_NAME}*", names, "choose one as uio:NAME")
    if wanted is None and not buffers:
        find_buffer(files, BUFFER_NAME)
    if wanted is None and len(buffers) > 1:
        raise NoDevice("one buffer", f"{UIO_NAME}*", buffers, "choose one with ?buffer=NAME")
    settings = dict(address.settings)
    settings.setdefault("buffer", buffers[0] if buffers else BUFFER_NAME)
    found = replace(address, scheme="uio", target=names[0], settings=settings)
    address.say(f"{address}: found {found} with buffer {settings['buffer']}")
    return open_uio(found)
