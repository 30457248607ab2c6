# SPDX-License-Identifier: Apache-2.0
"""Host and device at work at the same time: groups of images, each served by a thread.

    with Session.open("uio:lutvar", packed, slots=20, groups=2) as session:
        made = generate_overlapped(
            model, session.transformer, labels, seeds, slots=20, stagger=1,
            decoders=session.transformer.decoders,
        )

While the device computes a pass or a program of the decoder for one group, this host samples,
embeds and prepares norms and attention for another. Each group has its own slots, and its own maps
to decode into: with one set of maps for all, a group would wait while another decodes, and host and
device would take turns again. The images are those of `generate`, whatever the order of turns.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from lutvar.contract.editing import Edit
from lutvar.contract.labels import Label
from lutvar.times import Times

from .errors import HostError
from .generate import HostModel
from .group import Decode, Generated, Order, check_schedule, decoded, run_group
from .transformer import DeviceTransformer

#: Seconds that threads have to end after one of them failed; what they wait for is a bus, a program
#: that is being aborted, or work of the host.
DEADLINE = 60.0


class Unfinished(HostError):
    """A thread did not end in time after another one had failed.

    Attributes:
        groups: numbers of the groups whose threads still run, from 1.
        seconds: the deadline.
    """

    def __init__(self, groups: Sequence[int], seconds: float, cause: BaseException) -> None:
        self.groups, self.seconds = tuple(groups), seconds
        which = ", ".join(map(str, groups))
        super().__init__(
            f"{type(cause).__name__}: {cause}. {seconds:g} s later the threads of these groups "
            f"have not ended: {which}; end the process before the device is used again"
        )


def generate_overlapped(
    model: HostModel,
    transformer: DeviceTransformer,
    labels: Sequence[Label],
    seeds: Sequence[int],
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    edits: Sequence[Edit] | None = None,
    smooth: bool = False,
    times: Times | None = None,
    *,
    groups: int = 2,
    slots: int | None = None,
    stagger: int = 0,
    decoders: Sequence[Decode] = (),
    progress: Callable[[int, int], None] | None = None,
    deadline: float = DEADLINE,
) -> list[Generated]:
    """Generate images in groups that use the device in turn.

    A group takes an image that nobody has begun whenever it has a free slot. When a thread fails,
    or the caller's is interrupted (Ctrl-C), no turn begins any more, the program that runs is
    aborted, all threads end, and the first error is raised.

    Args:
        model, labels, seeds, cfg, top_k, top_p, edits, smooth: see `generate`.
        transformer: on a device with as many slots.
        times: where the time of each part is counted, of all threads together.
        groups: of images, each with a thread.
        slots: images in progress at once, all groups together; default: all.
        stagger: passes of a group between the starts of two of its images; see `generate`.
        decoders: make the image of a latent map when it is finished, one for each group; or one for
            all, which several threads may call. Default: nothing.
        progress: called as progress(images done, images), by one thread at a time.
        deadline: seconds that the threads have to end after an error.

    Raises:
        BadInput: labels, seeds and edits that do not fit the model or each other, or a group
            without a slot.
        Unfinished: the deadline is over.
        HostError: what a thread raised first.
    """
    order = Order.of(model, labels, seeds, cfg, top_k, top_p, edits, smooth)
    count = len(order.classes)
    slots = max(1, count) if slots is None else slots
    check_schedule(slots, stagger, groups)
    waiting = deque(range(count))
    made: dict[int, Generated] = {}
    spent = [Times() for _ in range(groups)]
    one = threading.Lock()

    def work(group: int) -> None:
        decode = decoders[group % len(decoders)] if decoders else None

        def finished(index: int, image: Generated) -> None:
            image = decoded(image, decode, spent[group])
            with one:
                made[index] = image
                if progress is not None:
                    progress(len(made), count)

        mine = range(group, slots, groups)
        run_group(
            order, transformer, mine, waiting, finished, stagger=stagger, times=spent[group]
        )  # fmt: skip

    _run_threads(groups, work, transformer, deadline)
    if times is not None:
        for part in spent:
            for name, seconds in part.seconds.items():
                times.add(name, seconds)
    return [made[i] for i in range(count)]


def _run_threads(
    groups: int, work: Callable[[int], None], transformer: DeviceTransformer, deadline: float
) -> None:
    """Run work(0) to work(groups - 1) at the same time; raises what one of them raised first."""
    turns = transformer.device.turns
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def run(group: int) -> None:
        try:
            work(group)
        except BaseException as error:  # told to the caller's thread, which raises it
            ended.put(error)
            turns.stop()
        else:
            ended.put(None)

    # A thread that hangs in a bus access must not keep the process.
    threads = [
        threading.Thread(target=run, args=(group,), name=f"lutvar group {group + 1}", daemon=True)
        for group in range(groups)
    ]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            error = ended.get()
            if error is not None:
                raise error
    except BaseException as first:
        turns.stop()
        left = _join([t for t in threads if t.ident is not None], deadline)
        if not left:
            turns.resume()
        elif isinstance(first, Exception):
            numbers = [threads.index(thread) + 1 for thread in left]
            raise Unfinished(numbers, deadline, first) from first
        raise
    _join(threads, deadline)


def _join(threads: Sequence[threading.Thread], deadline: float) -> list[threading.Thread]:
    """Wait for threads to end; returns those that did not in so many seconds."""
    end = time.monotonic() + deadline
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [thread for thread in threads if thread.is_alive()]
