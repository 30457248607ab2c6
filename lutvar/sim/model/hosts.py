# SPDX-License-Identifier: Apache-2.0
"""What the host adds to an estimate: measured or stated times of its work for an image.

The driver runs a pass, then samples, then the next pass: host and device take turns. So an image
takes the device's share and all of the host's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from lutvar.contract.shape import TransformerShape
from lutvar.yaml_files import read_yaml

from .model import Estimate

HOSTS = ("a72", "desktop")
PIXELS = 16  #: of an image, for each cell of the last token map, along a side

#: What the work of each part grows with.
_WORK: dict[str, Callable[[TransformerShape], int]] = {
    "driver": lambda s: s.tokens * (2 * s.width + s.vocab),  # bytes between host and device
    "embeddings": lambda s: s.tokens * s.width,
    "sampling": lambda s: s.tokens * s.vocab,
    "feature map": lambda s: len(s.patch_nums) * s.patch_nums[-1] ** 2,
    "decoder": lambda s: s.patch_nums[-1] ** 2,
}


@dataclass(frozen=True)
class HostTimes:
    """The host's seconds for an image of one model.

    Attributes:
        name: a name of `HOSTS`.
        how: where the figures come from: measured, or stated.
        seconds: by part.
    """

    name: str
    how: str
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
            for part, work in _WORK.items()
        }
        return cls(name, " ".join(str(data[name]["how"]).split()), seconds)

    @property
    def total(self) -> float:
        """All parts."""
        return sum(self.seconds.values())

    @property
    def without_decoder(self) -> float:
        """All parts but the decoder."""
        return self.total - self.seconds["decoder"]

    def images_per_second(self, estimate: Estimate) -> float:
        """What a user gets: device and host in turn, on one core."""
        return 1 / (1 / estimate.images_per_second + self.total)

    def as_dict(self, estimate: Estimate) -> dict[str, Any]:
        """Plain data."""
        return {
            "host": self.name,
            "how": self.how,
            "seconds_per_image": self.seconds,
            "images_per_second_with_host": self.images_per_second(estimate),
        }

    def text(self, estimate: Estimate) -> str:
        """The lines below an estimate."""
        parts = ", ".join(f"{name} {1e3 * t:.0f} ms" for name, t in self.seconds.items())
        each = 1 / estimate.images_per_second
        decoder = 1 / (each + self.without_decoder)
        return (
            f"  images a second with host {self.name}  {self.images_per_second(estimate):.2f} "
            f"(device {each:.2f} s modelled, host {self.total:.2f} s an image, in turn; "
            f"{decoder:.2f} with the decoder elsewhere)\n"
            f"  host {self.name}: {parts}\n  {self.how}"
        )


@cache
def _data() -> dict[str, Any]:
    data = read_yaml(resources.files("lutvar") / "configs" / "hosts.yaml")
    assert isinstance(data, dict)
    return data
