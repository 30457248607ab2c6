# SPDX-License-Identifier: Apache-2.0
"""Same weights, same seed: same numbers as the released VAR code (fixtures under data/)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lutvar.quant.var import Var, VarConfig, Vqvae, VqvaeConfig, generate
from lutvar.quant.var.quantizer import phi_indices
from support.quant.var_cases import CASES, OFFICIAL, Case, image_batch
from support.quant.var_weights import fill

DATA = Path(__file__).parent / "data"


def unfold(manifest: dict[str, list[int]]) -> dict[str, list[int]]:
    """Expand "blocks.{0..n}.x" entries."""
    shapes = {}
    for key, shape in manifest.items():
        if "{" not in key:
            shapes[key] = shape
            continue
        head, rest = key.split("{0..")
        count, tail = rest.split("}")
        shapes |= {f"{head}{i}{tail}": shape for i in range(int(count) + 1)}
    return shapes


def shapes_of(model: torch.nn.Module) -> dict[str, list[int]]:
    return {k: list(v.shape) for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_keys_and_shapes_of_released_transformers(name: str) -> None:
    manifests = json.loads((DATA / "manifests.json").read_text())
    with torch.device("meta"):
        model = Var(VarConfig.official(name))
    assert shapes_of(model) == unfold(manifests[name])


def test_keys_and_shapes_of_released_tokenizer() -> None:
    manifests = json.loads((DATA / "manifests.json").read_text())
    with torch.device("meta"):
        model = Vqvae(VqvaeConfig.official())
    assert shapes_of(model) == manifests["vae"]


def test_phi_indices() -> None:
    for key, expected in json.loads((DATA / "phi_indices.json").read_text()).items():
        scales, phis = map(int, key.split(","))
        assert list(phi_indices(scales, phis)) == expected, key


def models(case: Case) -> tuple[Var, Vqvae]:
    var, vqvae = Var(case.var).eval(), Vqvae(case.vqvae).eval()
    fill(var)
    fill(vqvae)
    return var, vqvae


def close(found: torch.Tensor, expected: np.ndarray, atol: float) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=atol)


@pytest.fixture(scope="module", params=CASES, ids=[c.name for c in CASES])
def pair(request: pytest.FixtureRequest) -> tuple[Case, dict[str, np.ndarray], Var, Vqvae]:
    case: Case = request.param
    with np.load(DATA / f"{case.name}.npz") as file:
        expected = dict(file)
    return case, expected, *models(case)


Pair = tuple[Case, dict[str, np.ndarray], Var, Vqvae]


@torch.no_grad()
def test_tokenizer(pair: Pair) -> None:
    case, expected, _, vqvae = pair
    tokens = vqvae.encode(image_batch(case))
    np.testing.assert_array_equal(torch.cat(tokens, dim=1), expected["encoded"])
    # to_image is in [0, 1], the released reconstruction in [-1, 1]
    close(vqvae.decode(tokens)[..., ::8, ::8] * 2 - 1, expected["reconstruction"], 2e-5)
    out = vqvae(image_batch(case))
    close(out.reconstruction_BCHW[..., ::8, ::8], expected["train_rec"], 2e-5)
    close(out.vq_loss, expected["train_loss"], 1e-6)
    assert all(torch.equal(a, b) for a, b in zip(out.tokens, tokens, strict=True))


@torch.no_grad()
def test_teacher_forcing(pair: Pair) -> None:
    case, expected, var, vqvae = pair
    inputs = vqvae.quantize.teacher_inputs(vqvae.encode(image_batch(case)))
    close(inputs[:, :: case.stride], expected["teacher_inputs"], 1e-6)
    logits = var(torch.tensor(case.labels), inputs)
    close(logits[:, :: case.stride], expected["teacher_logits"], 1e-5)


def test_generation(pair: Pair) -> None:
    case, expected, var, vqvae = pair
    s = case.sampling
    result = generate(var, vqvae, case.labels, s.seed, s.cfg, s.top_k, s.top_p, keep_logits=True)
    np.testing.assert_array_equal(torch.cat(result.tokens, dim=1), expected["tokens"])
    assert result.logits is not None
    close(torch.cat(result.logits, dim=1)[:, :: case.stride], expected["logits"], 2e-5)
    close(result.images_BCHW[..., ::8, ::8], expected["image"], 1e-5)


def test_generation_equals_teacher_forcing(pair: Pair) -> None:
    """Cache and mask are two forms of the same thing."""
    case, _, var, vqvae = pair
    result = generate(var, vqvae, case.labels, 3, cfg=0.0, keep_logits=True)
    with torch.no_grad():
        inputs = vqvae.quantize.teacher_inputs(result.tokens)
        logits = var(torch.tensor(case.labels), inputs)
    assert result.logits is not None
    torch.testing.assert_close(logits, torch.cat(result.logits, dim=1), rtol=0, atol=2e-5)
