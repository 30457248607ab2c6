# SPDX-License-Identifier: Apache-2.0
"""The decoder's steps: sizes, work, rows that fill blocks of 128, and what is refused."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from lutvar.contract.decoder import Attend, Conv, DecoderShape, Norm, stored_channels
from lutvar.contract.decoder_form import FORMS, get_form, shipped_form
from lutvar.contract.errors import ConfigError
from lutvar.contract.quant_preset import load_quant
from lutvar.contract.terms import Terms
from lutvar.quant.golden.decoder import decoder_shape
from lutvar.quant.var import Vqvae, VqvaeConfig

OFFICIAL = DecoderShape.official()
CIFAR = DecoderShape(16, 32, (1, 1, 2), 2, 3, 8)


def test_the_steps_name_every_weight_of_the_decoder_and_count_its_work() -> None:
    """Against torch: the modules there are, and hooks that count products."""
    config = VqvaeConfig(96, 8, 32, (1, 2, 4), (1, 2), 1, 3)
    vqvae = Vqvae(config).eval()
    counted: dict[str, int] = {}

    def hook(name: str) -> Any:
        def count(module: torch.nn.Conv2d, _inputs: object, output: torch.Tensor) -> None:
            counted[name] = output[0].numel() * module.weight[0].numel()

        return count

    names = {}
    for name, module in vqvae.named_modules():
        if name.startswith(("decoder.", "post_quant")) and not list(module.children()):
            names[name] = module
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(hook(name))
    with torch.no_grad():
        vqvae.to_image(torch.zeros(1, 8, 4, 4))
    shape = decoder_shape(vqvae)
    macs = {c.name: c.macs for c in shape.convolutions}
    for conv in shape.convolutions:
        if conv.shortcut:
            macs[conv.shortcut_name] = conv.side**2 * conv.outputs * conv.shortcut_inputs
            macs[conv.name] -= macs[conv.shortcut_name]
    assert macs == counted
    norms = {s.name for s in shape.steps if isinstance(s, Norm) and s.name}
    expected = {n for n, m in names.items() if isinstance(m, (torch.nn.Conv2d, torch.nn.GroupNorm))}
    assert norms | set(macs) == expected


def test_the_official_decoder() -> None:
    assert round(sum(c.macs for c in OFFICIAL.convolutions) / 1e9, 1) == 196.5
    assert len(OFFICIAL.convolutions) == 49
    assert sum(isinstance(s, Attend) for s in OFFICIAL.steps) == 4
    assert OFFICIAL.image_side == 256
    by_name = {c.name: c for c in OFFICIAL.convolutions}
    fine = by_name["decoder.up.0.block.0.conv1"]
    assert (fine.span, fine.columns, fine.groups, fine.rows) == (4, 640, 8, 64)
    coarse = by_name["decoder.mid.block_1.conv1"]
    assert (coarse.span, coarse.columns, coarse.groups) == (1, 640, 15)
    doubled = by_name["decoder.up.1.upsample.conv"]
    assert (doubled.span, doubled.columns, doubled.groups) == (2, 640, 5)
    last = by_name["decoder.conv_out"]
    assert (last.span, last.columns, last.groups) == (4, 128, 8)


@pytest.mark.parametrize("shape", [OFFICIAL, CIFAR], ids=["official", "cifar10"])
def test_rows_fill_blocks_and_pixels_begin_at_beats(shape: DecoderShape) -> None:
    for conv in shape.convolutions:
        assert conv.columns % 128 == 0
        assert conv.rows * conv.span == conv.side
        assert stored_channels(conv.inputs) * 2 % 64 == 0
        assert conv.groups * 128 >= (conv.span + conv.taps - 1) * conv.inputs


@pytest.mark.parametrize("shape", [OFFICIAL, CIFAR], ids=["official", "cifar10"])
def test_every_map_is_written_before_it_is_read_in_the_size_it_has(shape: DecoderShape) -> None:
    sizes = {"z": (shape.z_channels, shape.latent_side)}
    sums: set[str] = set()
    for step in shape.steps:
        if isinstance(step, Conv):
            assert sizes[step.source] == (step.inputs, step.side)
            side = step.side * (2 if step.double else 1)
            if step.residual:
                assert sizes[step.residual] == (step.outputs, side)
            if step.shortcut:
                assert sizes[step.shortcut] == (step.shortcut_inputs, side)
            sizes[step.target] = (step.outputs, side)
            sums -= {step.target}
            sums |= {step.target} if step.statistics else set()
        else:
            channels = step.channels * (3 if isinstance(step, Attend) else 1)
            assert sizes[step.source] == (channels, step.side)
            assert not isinstance(step, Norm) or not step.name or step.source in sums
            sizes[step.target] = (step.channels, step.side)
    assert sizes["image"] == (shape.image_channels, shape.image_side)
    sides = [s.side for s in shape.steps]
    assert all(b in (a, 2 * a) for a, b in pairwise(sides))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ch": 40}, "40 channels: must be a multiple of 32"),
        ({"latent_side": 6}, "post_quant_conv: lines of 6 pixels; must be a multiple of 4"),
        ({"latent_side": 256}, "1024 x 1024 pixels: at most 262144"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(change: dict[str, int], message: str) -> None:
    values = {
        "z_channels": 16, "ch": 32, "ch_mult": (1, 1, 2), "blocks": 2, "image_channels": 3,
        "latent_side": 8,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        DecoderShape(**(values | change))  # type: ignore[arg-type]


def test_forms() -> None:
    graded = get_form("graded")
    by_name = {c.name: graded.terms(OFFICIAL, c) for c in OFFICIAL.convolutions}
    assert by_name["decoder.conv_out"] == by_name["decoder.up.3.upsample.conv"] == Terms(2, 2)
    assert by_name["decoder.up.0.block.1.conv2"] == Terms(1, 2)
    assert by_name["decoder.mid.attn_1.qkv"] == Terms(2, 2)
    assert all(name == form.name for name, form in FORMS.items())
    assert shipped_form(load_quant("fp4-single")).name == "two-rotated"
    assert shipped_form(load_quant("fp6")).name == "graded"
    with pytest.raises(ConfigError, match=r"unknown form 'x' of the decoder; known: one, straight"):
        get_form("x")


def test_the_page_lists_the_forms() -> None:
    page = (Path(__file__).parents[2] / "docs/decoder.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+)` \| (\d), (\d) \| (\d), (\d) \| (\d), (\d) \|$", page, re.M)
    assert len(rows) == 7
    for name, *numbers in rows:
        form = FORMS[name]
        assert (*form.straight, *form.coarse, *form.fine) == tuple(map(int, numbers))
        assert not form.rotate
