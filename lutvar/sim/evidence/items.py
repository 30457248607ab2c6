# SPDX-License-Identifier: Apache-2.0
"""What `make evidence` runs: which work on which accelerator, cheapest first.

Two kinds of work. `Images`: a shipped model generates whole images. `Layers`: one pass over blocks
of a released size with random weights, at one of its scales; the keys and values of the tokens
before it are random records that lie in memory, so that a late scale needs no earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase

from lutvar.contract.errors import ConfigError
from lutvar.contract.shape import TransformerShape


@dataclass(frozen=True)
class _OfModel:
    """Images of a shipped model.

    Attributes:
        model: its name.
        labels: class of each image; seeds count from 1.
    """

    model: str
    labels: tuple[int, ...]

    @property
    def what(self) -> str:
        """For the table."""
        count = len(self.labels)
        return f"{count} image{'s' if count > 1 else ''} of {self.model}"


class Images(_OfModel):
    """A shipped model generates images, all of them at once."""


class Pixels(_OfModel):
    """The accelerator decodes images of a shipped model, one after the other."""

    @property
    def what(self) -> str:
        """For the table."""
        return f"{super().what} decoded"


@dataclass(frozen=True)
class Layers:
    """One pass of one guided image over the first blocks of a released size, and the head.

    Attributes:
        size: "d30" or another released size.
        blocks: how many.
        scale: which scale the pass computes, from 0.
        shape: other sizes than the released ones, for tests.
    """

    size: str
    blocks: int
    scale: int
    shape: TransformerShape | None = None

    @property
    def sizes(self) -> TransformerShape:
        """Sizes of the transformer that runs."""
        released = self.shape or TransformerShape.official(self.size)
        return replace(released, depth=self.blocks)

    @property
    def tokens(self) -> int:
        """Tokens of the image that the pass computes."""
        return self.sizes.scale_tokens[self.scale]

    @property
    def position(self) -> int:
        """Tokens of the image before them."""
        return sum(self.sizes.scale_tokens[: self.scale])

    @property
    def what(self) -> str:
        """For the table."""
        many = "1 block" if self.blocks == 1 else f"{self.blocks} blocks"
        rows, keys = 2 * self.tokens, self.position + self.tokens
        return f"{many} of {self.size} and its head, {rows:,} rows, {keys:,} keys"


@dataclass(frozen=True)
class Item:
    """A simulation whose record is evidence.

    Attributes:
        name: on the command line and of its files.
        config: accelerator by name.
        work: what it computes.
    """

    name: str
    config: str
    work: Images | Pixels | Layers

    @property
    def definition(self) -> dict[str, object]:
        """Everything that the item consists of, as plain data; part of a record's key."""
        return {"config": self.config, "kind": type(self.work).__name__, **asdict(self.work)}


_BOARD = ("vck190-fp4", "vck190-latency-fp4", "vck190-fp6")
_SHIPPED = (
    "small-fp4", "small-fp6", "small-sections-fp4", "small-da-fp4", "small-dsp-fp4", "medium-fp4",
    *_BOARD,
)  # fmt: skip
_DIGITS = Images("digits", tuple(range(10)))
_CIFAR = Images("cifar10", (3,))

#: Cheapest first within each line; the last ones take hours.
ITEMS: tuple[Item, ...] = (
    *(Item(f"digits-{c}", c, _DIGITS) for c in _SHIPPED),
    *(Item(f"cifar10-{c}", c, _CIFAR) for c in _SHIPPED),
    *(Item(f"digits-pixels-{c}", c, Pixels("digits", (0, 1, 2))) for c in _SHIPPED),
    *(Item(f"cifar10-pixels-{c}", c, Pixels("cifar10", (3,))) for c in _SHIPPED),
    *(Item(f"d30-{rows}-rows-{c}", c, Layers("d30", 1, scale))
      for scale, rows in ((0, 2), (6, 128), (8, 338), (9, 512)) for c in _BOARD),
    *(Item(f"d30-30-blocks-{c}", c, Layers("d30", 30, 0)) for c in _BOARD),
    *(Item(f"d36-s-last-scale-{c}", c, Layers("d36-s", 1, 9)) for c in _BOARD),
)  # fmt: skip


def choose(patterns: Sequence[str], items: Sequence[Item] = ITEMS) -> list[Item]:
    """Items by name or pattern such as `*-vck190-fp4`, in the order of `items`; none: all.

    Raises:
        ConfigError: a pattern that fits no item.
    """
    for pattern in patterns:
        if not any(fnmatchcase(item.name, pattern) for item in items):
            raise ConfigError(
                f"{pattern!r} is no item of evidence; `lutvar evidence --list` shows them"
            )
    return [
        item for item in items if not patterns or any(fnmatchcase(item.name, p) for p in patterns)
    ]
