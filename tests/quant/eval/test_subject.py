# SPDX-License-Identifier: Apache-2.0
"""Methods on the golden model: what is drawn and measured is what the accelerator computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lutvar.contract.quant_preset import load_quant
from lutvar.quant.eval.forced import _Codes, force
from lutvar.quant.eval.settings import SampleSettings
from lutvar.quant.eval.subject import Subject, SubjectName, load_subject, load_subjects
from lutvar.quant.golden.distance import kl_divergence, relative_error
from lutvar.quant.golden.linear import linear
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.methods import load_recipe, quantize_var
from lutvar.quant.methods.hardware.export import export
from lutvar.quant.models import load_model
from lutvar.quant.ptq import quantize_transformer
from lutvar.quant.var.passes import FloatTransformer, generate_passes, teacher_forced
from lutvar.quant.var.sites import LinearSite

RECIPE = "fpqvar-fp4-no-galt"
SETTINGS = SampleSettings(cfg=1.5, top_k=0, top_p=0.0, chunk=4)
LABELS = [0, 3, 7]


@pytest.fixture(scope="module")
def subjects() -> list[Subject]:
    return load_subjects("digits", RECIPE, None)


def test_both_ways_of_a_recipe_that_the_accelerator_runs(subjects: list[Subject]) -> None:
    assert [s.on for s in subjects] == ["golden", "fake"]
    assert [s.title for s in subjects] == [f"{RECIPE}, golden model", RECIPE]
    assert len({s.fingerprint for s in subjects}) == 2
    alone = load_subject(SubjectName("digits", RECIPE, "golden"))
    assert alone.fingerprint == subjects[0].fingerprint
    assert [s.on for s in load_subjects("digits", "int4-rtn", None)] == ["fake"]
    assert [s.on for s in load_subjects("digits", "float", None)] == ["fake"]


def test_it_is_the_golden_model_of_the_export(subjects: list[Subject]) -> None:
    golden = subjects[0]
    model = load_model("digits")
    codes = export(quantize_var(model.var, load_recipe(RECIPE)), model.var)
    expected = generate_passes(model.var, model.vqvae, GoldenTransformer(codes), LABELS, [5, 6, 7])
    found = golden.draw(LABELS, [5, 6, 7], SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(found.tokens, expected.tokens, strict=True))
    assert torch.equal(found.images_BCHW, expected.images_BCHW)
    other = subjects[1].draw(LABELS, [5, 6, 7], SETTINGS)
    assert not torch.equal(torch.cat(other.tokens, 1), torch.cat(found.tokens, 1))
    tokens = torch.cat(found.tokens, 1)
    logits = golden.logits(torch.tensor(LABELS), tokens)
    whole = teacher_forced(model.var, model.vqvae, GoldenTransformer(codes), LABELS, found.tokens)
    assert [x.shape[1] for x in logits] == [1, 4, 9, 16]
    assert torch.equal(torch.cat(logits, 1), whole)


def test_figures_with_given_tokens(subjects: list[Subject]) -> None:
    golden = subjects[0]
    model, codes = golden.model, golden.golden
    assert codes is not None
    tokens = golden.draw(LABELS, [5, 6, 7], SETTINGS).tokens
    figures = force(golden, torch.tensor(LABELS), torch.cat(tokens, 1))
    exact, value = (
        teacher_forced(model.var, model.vqvae, transformer, LABELS, tokens)
        for transformer in (FloatTransformer(model.var), GoldenTransformer(codes))
    )
    assert figures.kl_nats == pytest.approx(kl_divergence(exact, value), rel=1e-4)
    # Each linear with its errors and those before it: the accelerator's, the head included.
    sites = {str(site) for site in codes.layers}
    assert set(figures.through_snr_db) == sites
    assert all(8 < snr < 40 for snr in figures.through_snr_db.values())
    assert figures.through_snr_db["head"] == pytest.approx(figures.logits_snr_db, abs=1e-3)
    assert {s for s, snr in figures.own_snr_db.items() if snr < 100} == sites


def test_a_linear_alone_gets_its_factors_and_shifts() -> None:
    """Factors and shifts are in the AdaLN vectors; alone, a linear's input must have them."""
    var = load_model("digits").var
    site = LinearSite(1, "fc1")
    weight, bias = next((w, b) for s, w, b in var.iter_sites() if s == site)
    factors = {site: np.linspace(0.5, 2, weight.shape[1], dtype=np.float32)}
    codes = quantize_transformer(var, load_quant("fp4"), factors=factors, progress=False)
    x = torch.randn(2, 3, weight.shape[1], generator=torch.Generator().manual_seed(0))
    found = _Codes(codes)(site, x, weight, bias)
    layer, rows = codes.layers[site], (x * torch.from_numpy(factors[site])).reshape(6, -1)
    assert np.array_equal(found.numpy().reshape(6, -1), linear(layer, rows).y)
    exact = torch.nn.functional.linear(x, weight, bias).detach()
    assert relative_error(exact, found) < 0.3
    without = torch.from_numpy(linear(layer, x.reshape(6, -1)).y).view_as(exact)
    assert relative_error(exact, without) > 0.4
    head = LinearSite(var.config.depth, "head_ada")
    assert torch.equal(_Codes(codes)(head, x, weight, bias), exact), (
        "float where there are no codes"
    )


def test_what_the_golden_model_does_not_run() -> None:
    with pytest.raises(ValueError, match=r"int4-rtn: the golden model does not run it: qkv, proj"):
        load_subject(SubjectName("digits", "int4-rtn", "golden"))
    with pytest.raises(ValueError, match=r"fp4-baseline: .* no shipped configuration: weights"):
        load_subject(SubjectName("digits", "fp4-baseline", "golden"))
    with pytest.raises(ValueError, match=r"float: .* the unquantized model has no codes"):
        load_subject(SubjectName("digits", "float", "golden"))
    with pytest.raises(ValueError, match=r"device 'cuda': the golden model runs on the CPU"):
        load_subject(SubjectName("digits", RECIPE, "golden"), device="cuda")
