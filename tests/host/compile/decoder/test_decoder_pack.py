# SPDX-License-Identifier: Apache-2.0
"""The packed decoder: what lies where, its part of the file, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lutvar.contract.memory import unpack_panel
from lutvar.host.compile.decoder.layout import DecoderLayout
from lutvar.host.compile.decoder.pack import PackedDecoder
from lutvar.host.compile.errors import CompileError, ImageError
from lutvar.host.compile.pack import pack_transformer
from lutvar.host.compile.packed import PackedTransformer
from support.host.compile_cases import transformer
from support.host.decoder_cases import accelerator, packed, quantized, vqvae


@pytest.mark.parametrize(
    ("preset", "form", "changes"),
    [
        ("small-fp4", "two-rotated", {}),
        ("small-fp6", "graded", {}),
        ("small-fp4", "inputs", {"bank_groups": 2, "max_width": 256, "weight_ports": 2}),
    ],
)
def test_panels_hold_the_parts(preset: str, form: str, changes: dict[str, Any]) -> None:
    config = accelerator(preset, **changes)
    decoder = quantized(config, form)
    model = packed(config, decoder)
    assert model.decoder is not None
    layout, bits = model.decoder.layout, config.quant_config.code_bits
    assert layout.start == model.layout.size and layout.end == len(model.image)
    at, number = layout.start, 0
    for name, plan in layout.convolutions.items():
        layers = decoder.convolutions[name].layers
        assert len(plan.parts) == len(layers) and plan.conv is decoder.convolutions[name].conv
        assert (plan.shortcut >= 0) == (decoder.convolutions[name].shortcut is not None)
        for part, layer, first in zip(plan.parts, layers, plan.sets, strict=True):
            assert (part.rotate, part.terms, part.groups) == (
                layer.rotate, layer.terms, layer.groups
            )  # fmt: skip
            assert part.tiles[0].offset >= at and first == number
            for which, weights in enumerate(layer.sets):
                assert model.decoder.exponents[number] == weights.exponent
                number += 1
                for inputs in part.slices:
                    assert inputs.groups * layer.input_terms <= config.bank_groups
                    for panel in part.panels(part.tiles[0], inputs, which):
                        first_of = panel.group == inputs.first
                        codes, scales, bias = unpack_panel(
                            model.image[panel.offset : panel.offset + panel.beats * 64],
                            layer.outputs, bits, first_of, config.weight_ports,
                        )  # fmt: skip
                        at = panel.offset + panel.beats * 64
                        own = slice(panel.group * 128, panel.group * 128 + 128)
                        np.testing.assert_array_equal(codes, weights.codes[:, own])
                        np.testing.assert_array_equal(scales, weights.scales[:, panel.group])
                        if bias is not None and not which and panel.group == 0:
                            np.testing.assert_array_equal(bias, layer.bias)
    assert number == layout.sets
    for name, norm in decoder.norms.items():
        weight, bias, eps = model.decoder.norm(model.image, name)
        np.testing.assert_array_equal(weight, norm.weight)
        np.testing.assert_array_equal(bias, norm.bias)
        assert eps == norm.eps
        assert layout.norms[name].weight >= at


def test_the_transformer_lies_where_it_lay() -> None:
    config = accelerator()
    alone = pack_transformer(transformer("small-fp4"), config, model={"name": "test"})
    model = packed(config, quantized(config, "one"))
    assert alone.decoder is None and alone.layout == model.layout
    np.testing.assert_array_equal(alone.image, model.image[: len(alone.image)])
    assert alone.hash != model.hash


def test_a_file_holds_both(tmp_path: Path) -> None:
    config = accelerator("small-fp6")
    model = packed(config, quantized(config, "graded"))
    model.save(tmp_path / "a.img")
    read = PackedTransformer.load(tmp_path / "a.img", config)
    assert read.decoder is not None and model.decoder is not None
    assert read.decoder.layout == model.decoder.layout
    assert read.decoder.exponents == model.decoder.exponents
    assert read.decoder.epsilons == model.decoder.epsilons
    assert read.digest() == model.digest()
    np.testing.assert_array_equal(read.image, model.image)


@pytest.mark.parametrize(
    "change",
    [
        {"form": "threefold"},
        {"exponents": [0]},
        {"epsilons": []},
        {"shape": {}},
        {"shape": {"z_channels": 8, "ch": 33, "ch_mult": [1], "blocks": 2, "image_channels": 3,
                   "latent_side": 4}},
    ],
    ids=lambda c: "-".join(map(str, c.items()))[:24],
)  # fmt: skip
def test_an_altered_decoder_is_refused(
    tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = accelerator()
    model = packed(config, quantized(config, "one"))
    assert model.decoder is not None
    data = json.loads(json.dumps(model.decoder.as_json())) | change
    monkeypatch.setattr(PackedDecoder, "as_json", lambda _self: data)
    replace(model).save(tmp_path / "a.img")
    with pytest.raises(ImageError, match=r"decoder|epsilons|exponents"):
        PackedTransformer.load(tmp_path / "a.img", config)


def test_what_the_accelerator_cannot_run_is_refused() -> None:
    wide = vqvae(ch=160, ch_mult=(1,))
    config = accelerator()
    with pytest.raises(CompileError, match=r"rows of 640 results; acc_depth of small-fp4 is 512"):
        packed(config, quantized(config, "one", wide))
    single = accelerator(input_terms=1)
    with pytest.raises(CompileError, match=r"inputs in 2 terms; small-fp4 has input_terms 1"):
        packed(single, quantized(single, "two"))


def test_numbers_that_do_not_fit_the_sizes() -> None:
    config = accelerator()
    model = packed(config, quantized(config, "one"))
    assert model.decoder is not None
    layout: DecoderLayout = model.decoder.layout
    with pytest.raises(CompileError, match=r"1 exponents of a decoder; its sizes need"):
        PackedDecoder(layout, (0,), model.decoder.epsilons)
    with pytest.raises(CompileError, match=r"0 epsilons of a decoder; its sizes need"):
        PackedDecoder(layout, model.decoder.exponents, ())
