# SPDX-License-Identifier: Apache-2.0
"""What images wait for each other where groups take turns (`lutvar.host.overlap`): modelled.

Each group goes round: a pass on the device, the host's work for it, then the decoder, whose
programs and whose host's shares alternate. Device and host's core serve whoever came first, as the
driver's turns do; a group that finds all maps taken waits until another one has decoded.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from itertools import count

#: What a group wants next: "device", "host" or "maps", and for how many seconds; maps are held
#: until they are given back, which is "back".
_Wish = tuple[str, float]
_IMAGES = 400  #: of all groups, until the rate is taken


@dataclass(frozen=True)
class Round:
    """Seconds of one image, staggered.

    Attributes:
        transformer: of the device for a pass; every one finishes an image.
        host: of the host after it: driver, sampling, feature map, embeddings.
        decoder: of the device for all programs of the decoder.
        share: of the host between them.
        programs: of the decoder.
    """

    transformer: float
    host: float
    decoder: float
    share: float
    programs: int

    def wishes(self, late: float) -> Generator[_Wish, None, None]:
        """What a group wants, for ever; it begins `late` by so many seconds of the host."""
        yield "host", late
        while True:
            yield "device", self.transformer
            yield "host", self.host
            yield "maps", 0.0
            for _ in range(self.programs):
                yield "device", self.decoder / self.programs
                yield "host", self.share / self.programs
            yield "back", 0.0


def images_per_second(one: Round, groups: int, maps: int, cores: int = 1) -> float:
    """The rate of so many groups that share sets of maps, and cores of the host.

    Args:
        one: an image.
        groups: of staggered images, each with a thread.
        maps: sets of maps to decode into.
        cores: of the host.
    """
    free = {"device": 1, "host": cores, "maps": maps}
    queues: dict[str, deque[tuple[Generator[_Wish, None, None], float]]]
    queues = {name: deque() for name in free}
    now, done, numbers = 0.0, 0, count()
    events: list[tuple[float, int, Generator[_Wish, None, None], str]] = []

    def begin(group: Generator[_Wish, None, None], what: str, seconds: float) -> None:
        heapq.heappush(events, (now + seconds, next(numbers), group, what))

    def give(what: str) -> None:
        if queues[what]:
            group, seconds = queues[what].popleft()
            begin(group, what, seconds)
        else:
            free[what] += 1

    def ask(group: Generator[_Wish, None, None]) -> bool:
        """Whether it has finished an image."""
        what, seconds = next(group)
        finished = what == "back"
        if finished:
            give("maps")
            what, seconds = next(group)
        if free[what]:
            free[what] -= 1
            begin(group, what, seconds)
        else:
            queues[what].append((group, seconds))
        return finished

    for number in range(groups):
        ask(one.wishes(number * 1e-3))
    while done < _IMAGES:
        now, _, group, what = heapq.heappop(events)
        if what != "maps":
            give(what)
        done += ask(group)
    return done / now
