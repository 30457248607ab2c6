# SPDX-License-Identifier: Apache-2.0
"""Configurations, places of tokens, guidance and bad input of RAR and PAR."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lutvar.quant.generators import ParConfig, RarConfig, Sampling, TokenizerConfig, generate_tokens
from lutvar.quant.generators.generate import guidance, guided
from lutvar.quant.generators.par import image_order, rotary_table, token_places
from lutvar.quant.var import ConfigError
from support.quant.generator_cases import CASES, model_of

RAR_CASE, PAR_CASE = CASES[0], CASES[1]


def test_the_first_group_has_one_token_of_every_region() -> None:
    places = token_places(16, 4)
    assert places[:4].tolist() == [[0, 0], [0, 2], [2, 0], [2, 2]]
    assert places[4:8].tolist() == [[0, 1], [0, 3], [2, 1], [2, 3]]
    assert image_order(torch.arange(16)[None], 4)[0, :4].tolist() == [0, 4, 1, 5]


def test_positions_without_a_place_have_no_rotation() -> None:
    assert isinstance(PAR_CASE.config, ParConfig)
    table = rotary_table(PAR_CASE.config)
    assert table.shape == (1 + 16 + 3, 16, 2)
    zero = (table == 0).flatten(1).all(1).nonzero().flatten().tolist()
    assert zero == [0, 5, 6, 7]
    turned = table[(table != 0).flatten(1).any(1)]
    torch.testing.assert_close(turned.square().sum(-1), torch.ones(16, 16))


def test_passes_and_regions() -> None:
    rar, par = model_of(RAR_CASE), model_of(PAR_CASE)
    assert rar.passes[:3] == ((0, 1), (1, 2), (2, 3)) and len(rar.passes) == 17
    assert rar.regions[:4] == (0, 1, 2, 2)
    assert par.passes == ((0, 1), (1, 2), (2, 3), (3, 4), (4, 8), (8, 12), (12, 16))
    assert par.regions == (0, 1, 2, 3, 4, 5, 5) and par.sink_passes == 5


def test_released_par_needs_147_and_51_passes() -> None:
    for name, count in (("PAR-XL-4x", 147), ("PAR-3B-16x", 51)):
        config = ParConfig.official(name)
        assert config.group + (config.tokens - config.group) // config.group == count


def test_guidance_rises_from_one() -> None:
    sampling = Sampling(cfg=16.0, power=2.75)
    assert guidance(sampling, 0, 256) == 1.0
    expected = 15 * (1 - math.cos(math.pi * 0.5**2.75)) / 2 + 1
    assert guidance(sampling, 128, 256) == pytest.approx(expected, rel=1e-6)
    assert guidance(Sampling(cfg=1.5), 100, 576) == 1.5


def test_without_guidance_the_null_class_does_not_run() -> None:
    rar, par = model_of(RAR_CASE), model_of(PAR_CASE)
    assert not guided(rar, Sampling(cfg=0.0)) and guided(rar, Sampling(cfg=1.0))
    assert not guided(par, Sampling(cfg=1.0))
    rows: list[int] = []
    par.blocks[0].register_forward_hook(lambda m, a, out: rows.append(len(out)))
    generate_tokens(par, [1], 0, Sampling(cfg=1.0))
    assert set(rows) == {1}


def test_null_label_is_accepted_and_others_are_not() -> None:
    model = model_of(RAR_CASE)
    sampling = Sampling(cfg=0.0)
    assert generate_tokens(model, [-1], 0, sampling).tokens_BT.shape == (1, 16)
    with pytest.raises(ValueError, match="class 6: the model has classes 0 to 4"):
        generate_tokens(model, [6], 0, sampling)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"power": -1.0}, "power"),
        ({"top_k": 33}, "top_k"),
        ({"cfg": math.inf}, "cfg"),
    ],
)
def test_bad_sampling(changes: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        generate_tokens(model_of(RAR_CASE), [1], 0, replace(RAR_CASE.sampling, **changes))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: RarConfig(100, 2, 4, 256), "multiples of 128"),
        (lambda: RarConfig(128, 2, 3, 256), "must divide the width"),
        (lambda: RarConfig(128, 2, 4, 256, tokens=15), "must be a square"),
        (lambda: ParConfig(128, 2, 4, 256, group=9, tokens=64), "root divides the side"),
        (lambda: ParConfig(128, 2, 64, 256), "multiple of 4"),
        (lambda: RarConfig.official("rar_s"), "known are rar_b, rar_l"),
        (lambda: TokenizerConfig("vq16", side=4, vocab=8, ch=20), "multiple of 32"),
    ],
)
def test_bad_configurations(make: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()  # type: ignore[operator]


def test_patches_are_coded_by_the_nearest() -> None:
    from lutvar.quant.generators import Tokenizer

    tokenizer = Tokenizer(TokenizerConfig("patches", side=4, vocab=16, in_channels=1, patch=2))
    image = torch.arange(64).view(1, 1, 8, 8) / 64
    with torch.no_grad():
        entries = torch.nn.functional.pixel_unshuffle(image, 2).flatten(2)[0].T
        tokenizer.codebook.weight.copy_(entries.flip(0))
    assert tokenizer.encode(image).tolist() == [list(range(15, -1, -1))]
    assert torch.equal(tokenizer.decode(tokenizer.encode(image)), image)
    with pytest.raises(ValueError, match=r"expected \[B, 1, 8, 8\]"):
        tokenizer.encode(image[..., :4])
