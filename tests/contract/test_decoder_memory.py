# SPDX-License-Identifier: Apache-2.0
"""Maps in memory and decoders that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.decoder import DecoderShape
from lutvar.contract.decoder_form import FORMS, get_form
from lutvar.contract.decoder_memory import Place, activated_bytes, check_decoder, map_bytes
from lutvar.contract.errors import ConfigError
from lutvar.quant.golden.decoder.maps import ActivatedMap

OFFICIAL = DecoderShape.official()
CIFAR = DecoderShape(16, 32, (1, 1, 2), 2, 3, 8)


def test_an_activated_map_takes_what_the_golden_model_has() -> None:
    for side, channels in ((8, 16), (16, 160)):
        one = ActivatedMap(np.zeros((1, side, side, channels), np.float16))
        assert one.patterns[0].nbytes == activated_bytes(side, channels)


def test_maps_of_256_pixels() -> None:
    found = map_bytes(OFFICIAL)
    assert {place.name for place in found} == {"z", "h", "a", "c", "x", "q", "image"}
    assert found[Place("x")] == 256 * 256 * 160 * 4 == found[Place("h")]
    assert found[Place("c", 128, 320)] == 130 * 130 * 320 * 2 + 256
    assert found[Place("q")] == 16 * 16 * 1920 * 4
    assert found[Place("image")] == 256 * 256 * 32 * 4
    activated = {p: size for p, size in found.items() if p.activated}
    assert all(n == activated_bytes(p.side, p.channels) for p, n in activated.items())
    assert {p for p in activated if p.name == "a"} == {
        Place("a", side, channels)
        for side, channels in ((16, 32), (16, 640), (32, 640), (32, 320), (64, 320), (128, 320),
                               (128, 160), (256, 160))
    }  # fmt: skip


def test_the_large_accelerators_run_the_released_decoder_in_every_form() -> None:
    for name in ("vck190-fp4", "vck190-fp6", "vck190-latency-fp4"):
        for form in FORMS.values():
            check_decoder(OFFICIAL, form, load_accelerator(name), memory=1 << 28)
    check_decoder(CIFAR, get_form("two"), load_accelerator("small-fp4"))


def test_what_does_not_fit_is_refused_by_name() -> None:
    one = get_form("one")
    small = load_accelerator("small-fp4")
    message = r"decoder\.conv_in: rows of 640 results; acc_depth of small-fp4 is 512"
    with pytest.raises(ConfigError, match=message):
        check_decoder(OFFICIAL, one, small)
    narrow = small.model_copy(update={"bank_groups": 1, "name": "narrow"})
    check_decoder(CIFAR, one, narrow)
    with pytest.raises(ConfigError, match="inputs in 2 terms; bank_groups of narrow is 1"):
        check_decoder(CIFAR, get_form("two"), narrow)
    with pytest.raises(ConfigError, match=r"maps of 32 x 32 pixels take \d+ bytes; there are 9999"):
        check_decoder(CIFAR, one, small, memory=9999)
