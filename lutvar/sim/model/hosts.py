# SPDX-License-Identifier: Apache-2.0
"""What the host does for an image: measured or stated times, scaled to a model's sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from lutvar.contract.shape import TransformerShape
from lutvar.yaml_files import read_yaml

HOSTS = ("a72", "desktop")
SAMPLING = "sampling"
HIDDEN = "random bits"  #: made while the device computes
DECODER = "decoder"  #: all of it on the host
PRODUCTS = "matrix products of attention"  #: BLAS spreads them over all cores
SHARE = ("norms and maps", "attention", PRODUCTS)  #: of the host where the device decodes

#: What the work of each part grows with.
_WORK: dict[str, Callable[[TransformerShape], int]] = {
    "driver": lambda s: s.tokens * (2 * s.width + s.vocab),  # bytes between host and device
    "embeddings": lambda s: s.tokens * s.width,
    SAMPLING: lambda s: s.tokens * s.vocab,
    HIDDEN: lambda s: s.tokens * s.vocab,
    "feature map": lambda s: len(s.patch_nums) * s.patch_nums[-1] ** 2,
    DECODER: lambda s: s.patch_nums[-1] ** 2,
    "norms and maps": lambda s: s.patch_nums[-1] ** 2,
    "attention": lambda s: s.patch_nums[-1] ** 2,  # cells
    PRODUCTS: lambda s: s.patch_nums[-1] ** 4,  # of all cells over one another
}


@dataclass(frozen=True)
class HostTimes:
    """The host's seconds for an image of one model.

    Attributes:
        name: a name of `HOSTS`.
        how: where the figures come from: measured, or stated.
        cores: that it has for lutvar.
        seconds: by part, both ways to decode.
    """

    name: str
    how: str
    cores: int
    seconds: dict[str, float]

    @classmethod
    def of(cls, name: str, shape: TransformerShape) -> HostTimes:
        """The times of a host, scaled to a model's sizes."""
        data = _data()
        reference = TransformerShape.official(data["reference"])
        seconds = {
            part: data["desktop"]["seconds"][part]
            * data[name]["factor"]
            * work(shape)
            / work(reference)
            / (data[name]["cores"] if part == PRODUCTS else 1)
            for part, work in _WORK.items()
        }
        how = " ".join(str(data[name]["how"]).split())
        return cls(name, how, int(data[name]["cores"]), seconds)

    def parts(self, device_decodes: bool) -> dict[str, float]:
        """What an image waits for, by part."""
        left_out = {HIDDEN, *((DECODER,) if device_decodes else SHARE)}
        return {name: t for name, t in self.seconds.items() if name not in left_out}


@cache
def _data() -> dict[str, Any]:
    data = read_yaml(resources.files("lutvar") / "configs" / "hosts.yaml")
    assert isinstance(data, dict)
    return data
