# SPDX-License-Identifier: Apache-2.0
"""The decoder behind a session: the golden device's images, and input that is refused by name."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from lutvar.contract.isa import Region
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.device import Device
from lutvar.host.device_decoder import DecodeReport, DeviceDecoder
from lutvar.host.errors import BadInput
from lutvar.host.session import Session
from lutvar.host.transformer import DeviceTransformer
from lutvar.quant.golden.decoder import GoldenDecoder, QuantizedDecoder
from lutvar.sim.golden_device import GoldenDevice
from lutvar.sim.run.comparing import Comparison
from lutvar.sim.run.comparing_decoder import ComparingDecoder
from support.host.decoder_cases import accelerator, latents, packed, quantized

CONFIG = accelerator()


@cache
def model() -> tuple[QuantizedDecoder, PackedTransformer]:
    decoder = quantized(CONFIG, "straight")
    return decoder, packed(CONFIG, decoder)


def test_a_session_decodes_between_passes() -> None:
    """Two images, then the transformer's memory is overwritten, then the first image again."""
    decoder, image = model()
    golden = GoldenDecoder(decoder)
    wanted = latents(decoder, 2)
    with Session(GoldenDevice(CONFIG), image, slots=2) as session:
        reports: list[DecodeReport] = []
        session.decoder.on_image = reports.append
        found = session.decoder(wanted)
        np.testing.assert_array_equal(found, golden(torch.from_numpy(wanted)).numpy())
        plan = session.decoder.plan
        assert plan.base > 0
        noise = np.random.default_rng(0).integers(0, 256, plan.base, np.uint8)
        session.device.write(Region.WORK, 0, noise)
        np.testing.assert_array_equal(session.decoder(wanted[:1])[0], found[0])
        assert len(reports) == 3 and reports[0].cycles == reports[2].cycles > 0
        assert reports[0].instructions == sum(
            len(compiled.program.instructions) for compiled, _ in session.decoder.programs
        )
        comparison = Comparison()
        ComparingDecoder(golden, session.decoder, comparison)(torch.from_numpy(wanted[:1]))
        assert comparison.total and not comparison.mismatches


def test_a_difference_is_named() -> None:
    """The comparison sees a map that differs in one bit."""
    decoder, image = model()
    with Session(GoldenDevice(CONFIG), image) as session:
        comparison = Comparison()
        comparing = ComparingDecoder(GoldenDecoder(decoder), session.decoder, comparison)
        read, count = session.decoder.read_map, 0

        def altered(step: object) -> np.ndarray:
            nonlocal count
            count += 1
            values = read(step).copy()  # type: ignore[arg-type]
            if count == 5:
                values.view(np.uint8).reshape(-1)[40] ^= 1
            return values

        session.decoder.read_map = altered  # type: ignore[method-assign]
        comparing.image(latents(decoder, 1)[0])
    assert comparison.different == {"maps": 1, "pixels": 0}
    assert str(comparison.first[0]).startswith("pass 0: image 0: decoder.mid.block_1")


def test_latent_maps_that_do_not_fit_are_refused() -> None:
    decoder, image = model()
    with Session(GoldenDevice(CONFIG), image) as session:
        with pytest.raises(BadInput, match=r"latent map of shape \(8, 5, 5\): .* \(8, 4, 4\)"):
            session.decoder(np.zeros((1, 8, 5, 5), np.float32))
        wrong = latents(decoder, 1)
        wrong[0, 1, 2, 3] = np.inf
        with pytest.raises(BadInput, match=r"latent map: value inf at \(1, 2, 3\) is not finite"):
            session.decoder(wrong)
        right = session.decoder(latents(decoder, 1))
        assert np.isfinite(right).all() and np.ptp(right) > 0


def test_a_model_without_a_decoder() -> None:
    _, image = model()
    alone = replace(image, image=image.image[: image.layout.size], decoder=None)
    with Session(GoldenDevice(CONFIG), alone) as session:
        assert session.transformer.decoder is None
        with pytest.raises(BadInput, match="the packed model has no decoder"):
            _ = session.decoder
        with pytest.raises(BadInput, match="the packed model has no decoder"):
            DeviceDecoder(session.device, alone)
    with Session(GoldenDevice(CONFIG), image, decode=False) as session:
        assert session.transformer.decoder is None


def test_maps_that_do_not_fit_the_memory_are_refused_by_name() -> None:
    _, image = model()
    with Session(GoldenDevice(CONFIG), image) as session:
        plan = session.decoder.plan
        without = session.device._regions.program - (plan.work_size - plan.base)  # type: ignore[union-attr]
    device = Device(GoldenDevice(CONFIG, size=without + (1 << 16)), CONFIG)
    device.open()
    with pytest.raises(BadInput, match=r"maps of 8 x 8 pixels take \d+ bytes; there are \d+"):
        DeviceTransformer(device, image, 1)
    DeviceTransformer(device, image, 1, decode=False)
