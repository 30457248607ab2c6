# SPDX-License-Identifier: Apache-2.0
"""From class to pixels: an estimate of the device with what decoder and host add; all modelled.

Device and host take turns, as the driver does: a pass, then sampling, then the next pass; at the
end the decoder, whose programs wait for the host at each norm and attention. So an image takes the
sum of all parts. Its transformer passes and its decoder share the device, so their times add up as
well.

With several images in flight the turns overlap (`lutvar.host.overlap`): while the device computes
passes or decodes for some images, the host does its work for others, in groups of images with slots
and maps of their own. Then the busier side decides, if no image waits for another (`turns` has what
they wait). The host's work is counted on one core, its random bits on another one where there is
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.decoder import DecoderShape
from lutvar.contract.decoder_form import shipped_form
from lutvar.host.compile.errors import CompileError

from .decoder import decoder_programs
from .hosts import DECODER, HIDDEN, SAMPLING, SHARE, HostTimes
from .model import Estimate


def decoder_seconds(shape: DecoderShape, config: AcceleratorConfig, clock: float) -> float | None:
    """Seconds of device time for an image in the form that ships; None: it cannot decode this.

    Its programs are compiled and scheduled in the cycle model; see `decoder_programs`.

    Args:
        shape: the decoder.
        config: the accelerator.
        clock: MHz.
    """
    try:
        programs = decoder_programs(shape, shipped_form(config.quant_config), config)
    except CompileError:
        return None
    return programs.cycles / (clock * 1e6)


@dataclass(frozen=True)
class EndToEnd:
    """An image of an estimate's schedule, from class to pixels.

    Attributes:
        estimate: the transformer's passes.
        host: times of the host.
        decoder: seconds of device time; None: the host decodes.
    """

    estimate: Estimate
    host: HostTimes
    decoder: float | None

    @property
    def transformer(self) -> float:
        """Seconds of device time for an image."""
        return 1 / self.estimate.images_per_second

    @property
    def device(self) -> float:
        """Seconds for which an image occupies the device."""
        return self.transformer + (self.decoder or 0.0)

    @property
    def host_parts(self) -> dict[str, float]:
        """Seconds that an image waits for the host, by part."""
        return self.host.parts(self.decoder is not None)

    @property
    def host_seconds(self) -> float:
        """All of them."""
        return sum(self.host_parts.values())

    @property
    def sampling(self) -> float:
        """Seconds for top-k, top-p and draw of all tokens."""
        return self.host_parts[SAMPLING]

    @property
    def decoding_host(self) -> float:
        """Seconds of the host for decoding: its share, or all of it."""
        return sum(self.host_parts.get(name, 0.0) for name in (DECODER, *SHARE))

    @property
    def other_host(self) -> float:
        """Seconds of the host for the rest: driver, embeddings, feature map."""
        return self.host_seconds - self.sampling - self.decoding_host

    @property
    def images_per_second(self) -> float:
        """What a user gets: device and host in turn, on one core."""
        return 1 / (self.device + self.host_seconds)

    @property
    def overlapped(self) -> float | None:
        """Images a second where host and device work at the same time; None for single images."""
        if self.estimate.schedule == "single":
            return None
        bits = self.host.seconds[HIDDEN]
        work = max(self.host_seconds, bits) if self.host.cores > 1 else self.host_seconds + bits
        return 1 / max(self.device, work)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; every number is modelled."""
        return {
            "host": self.host.name,
            "how": self.host.how,
            "decodes": "host" if self.decoder is None else "device",
            "device_seconds_per_image": {
                "transformer": self.transformer,
                **({} if self.decoder is None else {"decoder": self.decoder}),
            },
            "host_seconds_per_image": self.host_parts,
            "host_seconds_hidden": self.host.seconds[HIDDEN],
            "seconds_per_image": self.device + self.host_seconds,
            "images_per_second": self.images_per_second,
            "images_per_second_overlapped": self.overlapped,
        }
