# SPDX-License-Identifier: Apache-2.0
"""Transformer, decoder and host add up to what a user waits for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.decoder import DecoderShape
from lutvar.contract.decoder_form import shipped_form
from lutvar.contract.shape import TransformerShape
from lutvar.sim.model.decoder import decoder_programs
from lutvar.sim.model.end_to_end import EndToEnd, decoder_seconds
from lutvar.sim.model.hosts import HIDDEN, HOSTS, HostTimes
from lutvar.sim.model.many import Request, estimate_one
from lutvar.sim.model.model import Estimate
from lutvar.sim.model.text import estimate_text, table_text

SHAPE = TransformerShape(256, 2, 4, 1024, 512, (1, 2, 4))
DECODER = DecoderShape(8, 32, (1, 2), 2, 3, 4)
CONFIG = load_accelerator("small-fp4")


@pytest.fixture(scope="module")
def estimates() -> dict[str, Estimate]:
    return {s: estimate_one(Request(CONFIG, SHAPE, "mini", s)) for s in ("single", "stagger")}


def test_the_decoder_takes_what_its_programs_take() -> None:
    cycles = decoder_programs(DECODER, shipped_form(CONFIG.quant_config), CONFIG).cycles
    assert decoder_seconds(DECODER, CONFIG, 250) == pytest.approx(cycles / 250e6)
    assert decoder_seconds(DECODER, CONFIG, 125) == pytest.approx(cycles / 125e6)


def test_the_host_decodes_where_the_device_cannot() -> None:
    without = CONFIG.model_copy(update={"decoder": False})
    assert decoder_seconds(DECODER, without, 250) is None


@pytest.mark.parametrize("schedule", ["single", "stagger"])
@pytest.mark.parametrize("decoder", [None, 0.5])
@pytest.mark.parametrize("name", HOSTS)
def test_device_and_host_take_turns(
    estimates: dict[str, Estimate], name: str, decoder: float | None, schedule: str
) -> None:
    e, host = estimates[schedule], HostTimes.of(name, SHAPE)
    whole = EndToEnd(e, host, decoder)
    seconds = 1 / e.images_per_second + (decoder or 0) + sum(whole.host_parts.values())
    assert 1 / whole.images_per_second == pytest.approx(seconds)
    parts = whole.sampling + whole.decoding_host + whole.other_host
    assert parts == pytest.approx(whole.host_seconds)
    data = whole.as_dict()
    assert data["seconds_per_image"] == pytest.approx(seconds)
    assert data["decodes"] == ("host" if decoder is None else "device")
    text = estimate_text(e, whole)
    assert f"end to end {whole.images_per_second:.2f} image/s" in text and host.how in text
    row = table_text([e], [whole]).splitlines()[3]
    assert f"{e.images_per_second:.2f}" in row and f"{whole.images_per_second:.2f}" in row


def test_the_busier_side_decides_where_turns_overlap(estimates: dict[str, Estimate]) -> None:
    host = HostTimes.of("a72", SHAPE)
    assert EndToEnd(estimates["single"], host, 0.1).overlapped is None
    fast = EndToEnd(estimates["stagger"], host, 1e-6)
    assert fast.device < fast.host_seconds
    assert fast.overlapped == pytest.approx(1 / fast.host_seconds)
    slow = EndToEnd(estimates["stagger"], host, 100.0)
    assert slow.overlapped == pytest.approx(1 / slow.device)
    alone = EndToEnd(estimates["stagger"], replace(host, cores=1), 1e-6)
    assert alone.overlapped == pytest.approx(1 / (alone.host_seconds + host.seconds[HIDDEN]))


@pytest.mark.slow
def test_targets_of_an_image_of_d30() -> None:
    """Modelled, 250 MHz: decoding in a quarter of a second; with the board's host an image a
    second alone, and two staggered if turns overlap."""
    config = load_accelerator("vck190-fp4")
    shape = TransformerShape.official("d30")
    decoder = decoder_seconds(DecoderShape.official(), config, 250)
    assert decoder is not None and decoder <= 0.25
    host = HostTimes.of("a72", shape)
    quant = config.quant_config.name + "-single"
    from lutvar.contract.quant_preset import load_quant

    def whole(schedule: str) -> EndToEnd:
        request = Request(config, shape, "d30", schedule, quant=load_quant(quant))
        return EndToEnd(estimate_one(request), host, decoder)

    assert whole("single").images_per_second >= 1
    staggered = whole("stagger").overlapped
    assert staggered is not None and staggered >= 2
