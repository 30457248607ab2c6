# SPDX-License-Identifier: Apache-2.0
"""Generation with numpy alone: PyTorch's numbers, the sampler's tokens, and no PyTorch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lutvar.contract.editing import Edit
from lutvar.contract.passes import ImageStep
from lutvar.contract.regions import box_mask
from lutvar.host.errors import BadInput
from lutvar.host.generate import HostModel, generate
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var.editing import encode_edits
from lutvar.quant.var.passes import generate_passes
from lutvar.sim.run.host_model import host_model


class Given:
    """A transformer whose logits depend on slot and scale alone, so that rounding moves nothing."""

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab
        self.inputs: list[list[NDArray[np.float32]]] = []

    def run(self, steps: Sequence[ImageStep]) -> list[NDArray[np.float32]]:
        self.inputs.append([x for s in steps for x in (s.x_cond, s.x_uncond) if x is not None])
        return [
            np.random.default_rng(s.slot * 100 + s.position).standard_normal(
                (s.tokens, self.vocab), np.float32
            )
            for s in steps
        ]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("digits")


def edits_of(loaded: LoadedModel) -> list[Edit]:
    """Half of four images of noise."""
    size = loaded.vqvae.config.image_size
    images = torch.rand(4, 1, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    boxes = [(0, 0, 0.5, 1), (0, 0, 1, 0.5), (0.5, 0, 1, 1), (0.25, 0.25, 0.75, 0.75)]
    return encode_edits(
        loaded.vqvae, images, [box_mask(box, 4, i > 1) for i, box in enumerate(boxes)]
    )


@pytest.mark.parametrize("cfg", [0.0, 1.5])
@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
def test_as_with_pytorch(
    loaded: LoadedModel, cfg: float, edited: bool, smooth: bool, tmp_path: Path
) -> None:
    """The same tokens; embeddings and latent map but for rounding."""
    edits = edits_of(loaded) if edited else None
    host_model(loaded.var, loaded.vqvae).save(tmp_path / "m.host")
    model = HostModel.load(tmp_path / "m.host")
    vocab = loaded.var.config.vocab
    here, there = Given(vocab), Given(vocab)
    labels = [3, -1, 10, None]
    made = generate(model, here, labels, [5, 6, 6, 7], cfg, 20, 0.9, edits, smooth)
    right = generate_passes(
        loaded.var, loaded.vqvae, there, labels, [5, 6, 6, 7], cfg, 20, 0.9, keep_logits=True,
        edits=edits, smooth=smooth,
    )  # fmt: skip
    for scale, tokens in enumerate(right.tokens):
        np.testing.assert_array_equal(np.stack([m.tokens[scale] for m in made]), tokens.numpy())
    assert [len(x) for x in here.inputs] == [len(x) for x in there.inputs]
    for mine, theirs in zip(here.inputs, there.inputs, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    if not smooth:
        latent = loaded.vqvae.quantize.decode(right.tokens).detach().numpy()
        np.testing.assert_allclose(np.stack([m.latent for m in made]), latent, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        image = loaded.vqvae.to_image(torch.from_numpy(np.stack([m.latent for m in made])))
    np.testing.assert_allclose(image.numpy(), right.images_BCHW.numpy(), atol=1e-4)


def test_what_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    model = host_model(loaded.var, loaded.vqvae)
    with pytest.raises(BadInput, match="one seed for each"):
        generate(model, Given(1), [1, 2], [0])
    with pytest.raises(BadInput, match="class 99"):
        generate(model, Given(1), [99], [0])
    with pytest.raises(BadInput, match="4 edits for 1 images"):
        generate(model, Given(1), [1], [0], edits=edits_of(loaded))
    (tmp_path / "x").write_text("no model")
    for path in (tmp_path / "x", tmp_path / "missing"):
        with pytest.raises(BadInput, match="--host-model"):
            HostModel.load(path)


WITHOUT_TORCH = """
import sys
for name in ("torch", "amaranth", "cocotb", "scipy", "matplotlib"): sys.modules[name] = None
import numpy as np
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.shape import TransformerShape
from lutvar.host import Device, DeviceTransformer
from lutvar.host.compile.model_layout import ModelLayout
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.generate import HostModel, generate
from lutvar.host.turns import Turns
from lutvar.contract.isa import UNITS
from lutvar.host.device_status import DeviceCounters

model = HostModel.load(sys.argv[1])
config = load_accelerator("small-fp4")
shape = TransformerShape(128, 4, 2, 512, len(model.codebook), model.patch_nums)
layout = ModelLayout.of(shape, config, range(len(model.classes)))
packed = PackedTransformer(layout, np.zeros(layout.size, np.uint8), (0,) * len(layout.layers),
                           1e-6, len(model.classes) - 1, {})

class Memory:
    config = config
    turns = Turns()
    def place(self, model, work, io, cache, **more): self.io = np.ones(io, np.uint8)
    def write(self, region, offset, data): self.io[offset : offset + len(data)] = data
    def read(self, region, offset, count): return self.io[offset : offset + count].copy()
    def run(self, program, limit, what):
        none = (0,) * len(UNITS)
        return DeviceCounters(1, none, none, none, 0, 0, {}, {})

images = generate(model, DeviceTransformer(Memory(), packed, 2), [0, 1], [5, 6], 1.5, 20, 0.9)
assert all(np.isfinite(i.latent).all() for i in images)

from lutvar.contract.editing import Edit
from lutvar.contract.regions import box_mask, grown

mask = grown(box_mask((0, 0, 0.5, 0.5), model.patch_nums[-1]), 1)
edit = Edit.of([np.full(p * p, 7) for p in model.patch_nums], mask, model.patch_nums)
edited = generate(model, DeviceTransformer(Memory(), packed, 2), [0, None], [5, 6], 1.5, 20, 0.9,
                  [edit, edit], smooth=True)
assert all((i.tokens[-1][mask.reshape(-1)] == 7).all() for i in edited)
assert all(np.isfinite(i.latent).all() for i in edited)
print([len(t) for t in images[0].tokens])
"""


def test_without_pytorch(loaded: LoadedModel, tmp_path: Path) -> None:
    """Compiler, driver, embeddings, sampler and feature map where PyTorch cannot be imported."""
    host_model(loaded.var, loaded.vqvae).save(tmp_path / "m.host")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "m.host")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([p * p for p in loaded.var.config.patch_nums])
