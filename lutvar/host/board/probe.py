# SPDX-License-Identifier: Apache-2.0
"""A first register access that may fail: tried in a child process, because it may kill.

A read that nothing answers ends the process with SIGBUS, which Python cannot catch, or never ends.
It may also stop the whole machine (an asynchronous error that the kernel does not survive); nothing
in user space helps against that.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
import warnings

from lutvar.contract.register_map import BY_NAME

from .errors import MappingFault
from .files import Words

SECONDS = 5.0  #: a read takes less than a microsecond


def probe(words: Words, device: str, seconds: float = SECONDS) -> None:
    """Read MAGIC in a child process.

    Raises:
        MappingFault: the child was killed, or did not come back.
    """
    with warnings.catch_warnings():
        # Python warns of threads that a child does not have; this one calls nothing that locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        faulthandler.disable()  # what happens is told by the parent, in one line
        try:
            words[BY_NAME["MAGIC"].offset // 4]
        finally:
            os._exit(0)
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)  # stays behind when the bus holds it
            raise MappingFault(device, None)
        time.sleep(0.001)
    if os.WIFSIGNALED(status):
        raise MappingFault(device, os.WTERMSIG(status))
