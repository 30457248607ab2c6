# SPDX-License-Identifier: Apache-2.0
"""Same weights, same seed: same numbers as the released code of RAR and PAR (fixtures in data/)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lutvar.quant.generators import (
    Par,
    ParConfig,
    Rar,
    RarConfig,
    Tokenizer,
    TokenizerConfig,
    generate_tokens,
    rows_of_image,
)
from lutvar.quant.generators.config import PAR_SIZES, RAR_SIZES, SAMPLING
from lutvar.quant.generators.generate import guided
from lutvar.quant.generators.names import MASKGIT, PAR, RAR, Renames, released_shapes, vq16
from support.quant.generator_cases import (
    CASES,
    TOKENIZERS,
    GeneratorCase,
    model_of,
    tokenizer_of,
    waves,
)

DATA = Path(__file__).parent / "data"
STRIDE = 7
#: float32 noise: our products run over other shapes than the released code's.
NEAR = {"rtol": 1e-5, "atol": 1e-5}
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def stored(name: str) -> dict[str, Tensor]:
    with np.load(DATA / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def unfolded(name: str) -> dict[str, list[int]]:
    """Names and shapes of a released model, "N.{0..23}.x" spread over the blocks."""
    shapes: dict[str, list[int]] = {}
    for key, shape in json.loads((DATA / "manifests.json").read_text())[name].items():
        head, brace, rest = key.partition("{0..")
        count, _, tail = rest.partition("}")
        for i in range(int(count) + 1 if brace else 1):
            shapes[f"{head}{i}{tail}" if brace else key] = shape
    return shapes


def check_manifest(name: str, model: nn.Module, renames: Renames) -> None:
    expected = unfolded(name)
    expected.pop("quantize.codebook_used", None)
    assert released_shapes(model.state_dict(), renames) == expected


@pytest.mark.parametrize("name", [*RAR_SIZES, *PAR_SIZES])
def test_names_and_shapes_of_released_transformers(name: str) -> None:
    with torch.device("meta"):
        if name in RAR_SIZES:
            check_manifest(name, Rar(RarConfig.official(name)), RAR)
        else:
            check_manifest(name, Par(ParConfig.official(name)), PAR)


def test_names_and_shapes_of_released_tokenizers() -> None:
    with torch.device("meta"):
        check_manifest("maskgit", Tokenizer(TokenizerConfig.official("maskgit")), MASKGIT)
        check_manifest("vq16", Tokenizer(TokenizerConfig.official("vq16")), vq16(5))


@by_name
def test_generation_draws_the_released_tokens(case: GeneratorCase) -> None:
    expected, model = stored(case.name), model_of(case)
    result = generate_tokens(model, case.labels, case.seed, case.sampling, keep_logits=True)
    assert torch.equal(result.tokens_BT, expected["tokens"].long())
    if isinstance(model, Par):
        image = rows_of_image(model, result.tokens_BT)
        assert torch.equal(image, expected["image_tokens"].long())


@by_name
def test_logits_of_every_pass(case: GeneratorCase) -> None:
    """Both halves of guidance, with a cache, given the released tokens."""
    expected, model = stored(case.name), model_of(case)
    assert guided(model, case.sampling)
    labels = torch.tensor(case.labels)
    rows = torch.cat((labels, torch.full_like(labels, case.config.num_classes)))
    tokens, cache = expected["tokens"].long().repeat(2, 1), model.new_cache()
    parts = [
        model.pass_logits(i, rows, tokens[:, : max(begin, 1)], cache)
        for i, (begin, _) in enumerate(model.passes)
    ]
    logits_BTV = torch.cat(parts, 1)[:, model.lead :]
    if isinstance(model, Rar):
        logits = torch.stack([x.flatten()[::STRIDE] for x in logits_BTV.unbind(1)])
    else:
        logits = logits_BTV.flatten()[::STRIDE].unsqueeze(0)
    torch.testing.assert_close(logits, expected["logits"], **NEAR)


@by_name
def test_forced_logits_behind_a_mask(case: GeneratorCase) -> None:
    expected, model = stored(case.name), model_of(case)
    labels = torch.tensor(case.labels)
    if isinstance(model, Par):
        logits = model(labels, expected["given"])[:, :, ::STRIDE]
        torch.testing.assert_close(logits, expected["forced"], **NEAR)
        return
    given = expected["tokens"].flip(0)
    torch.testing.assert_close(model(labels, given), expected["forced"], **NEAR)
    assert isinstance(model, Rar)
    orders = torch.arange(case.config.tokens).flip(0).expand(len(labels), -1)
    inputs = model.ordered_inputs(labels, given.gather(1, orders), 0, model.positions, orders)
    torch.testing.assert_close(model.run(inputs)[:, 1:], expected["reversed"], **NEAR)


@by_name
def test_one_seed_for_each_image_does_not_depend_on_the_batch(case: GeneratorCase) -> None:
    model = model_of(case)
    both = generate_tokens(model, case.labels, [5, 6], case.sampling).tokens_BT
    alone = generate_tokens(model, case.labels[1:], [6], case.sampling).tokens_BT
    assert torch.equal(both[1:], alone)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokenizers_encode_and_decode_as_released(kind: str) -> None:
    expected, tokenizer = stored("tokenizers"), tokenizer_of(kind)
    tokens = tokenizer.encode(waves(tokenizer.config.image_size))
    assert torch.equal(tokens, expected[f"{kind}_tokens"].long())
    torch.testing.assert_close(tokenizer.decode(tokens), expected[f"{kind}_pixels"], **NEAR)


def test_sampling_is_known_for_every_size() -> None:
    assert set(SAMPLING) == {*RAR_SIZES, *PAR_SIZES}
