# SPDX-License-Identifier: Apache-2.0
"""The shipped RAR model of digits, and what recipes cost it."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from lutvar.quant.eval.tokens import measure_recipes
from lutvar.quant.generators import generate_tokens
from lutvar.quant.models import ModelError, known_models, load_model
from lutvar.quant.models.classifier import agreement
from lutvar.quant.models.generator import LoadedGenerator, is_generator, load_generator
from lutvar.quant.train.tokens import DIGITS_RAR

FOLDER = Path(str(files("lutvar.quant.models"))) / "digits-rar"


@pytest.fixture(scope="module")
def shipped() -> LoadedGenerator:
    return load_generator("digits-rar")


def test_it_is_the_plans(shipped: LoadedGenerator) -> None:
    assert is_generator("digits-rar") and "digits-rar" in known_models()
    assert shipped.model.config == DIGITS_RAR.config
    assert shipped.sampling == DIGITS_RAR.sampling
    with pytest.raises(ModelError, match="digits-rar: is a RAR model"):
        load_model("digits-rar")


def test_samples_are_the_requested_digits(shipped: LoadedGenerator) -> None:
    figures = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))["figures"]
    judge = load_model("digits").classifier()
    labels = torch.arange(200) % 10
    tokens = generate_tokens(shipped.model, labels, 1, shipped.sampling).tokens_BT
    share = agreement(judge, shipped.tokenizer.decode(tokens), labels)
    assert abs(share - figures["agreement"]) < 0.1  # 3 standard errors of 200 samples
    assert share > 0.5
    free = generate_tokens(shipped.model, [-1] * 200, 1, shipped.sampling).tokens_BT
    assert agreement(judge, shipped.tokenizer.decode(free), labels) < 0.3


def test_recipes_cost_what_their_bits_say(shipped: LoadedGenerator) -> None:
    names = ["int8-rtn", "int4-rtn", "gptq-int4"]
    rows = {row.recipe: row for row in measure_recipes(shipped, names, 20, 100, 0)}
    assert rows["float"].kl_nats == 0 and rows["float"].same_tokens == 1
    assert 0 < rows["int8-rtn"].kl_nats < rows["int4-rtn"].kl_nats < 0.2
    assert rows["gptq-int4"].kl_nats < rows["int4-rtn"].kl_nats
    assert rows["int8-rtn"].top1 > 0.95
