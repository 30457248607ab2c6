# SPDX-License-Identifier: Apache-2.0
"""Backends for the VAR model, and the comparison that must find what is wrong, where it begins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from host_cases import tiny, tiny_model
from host_device import MockTransport

from lutvar.host import Accelerator, BadInput, PackedModel
from lutvar.host.backend import AcceleratorBackend
from lutvar.host.comparing import ComparingBackend
from lutvar.host.record import DivergenceError, Recorder
from lutvar.models import LoadedModel
from lutvar.quant.golden import GoldenBackend
from lutvar.quant.ptq import QuantizedModel, quantize_model
from lutvar.quant.var import GenerationResult, LinearBackend, LinearSite, generate

LABELS = [0, 2]


class Setup:
    """A tiny model on the device double, with its golden model."""

    def __init__(self, preset: str) -> None:
        hardware, quant = tiny(preset)
        self.loaded: LoadedModel = tiny_model()
        self.quantized: QuantizedModel = quantize_model(self.loaded.var, quant, progress=False)
        self.golden = GoldenBackend(self.quantized)
        self.transport = MockTransport(hardware, quant)
        device = Accelerator(self.transport, hardware, quant)
        device.open()
        layers = {layer.name: layer for layer in self.quantized.layers.values()}
        self.accelerator = AcceleratorBackend(device, PackedModel.pack(layers, hardware, quant))
        self.recorder = Recorder()
        self.comparing = ComparingBackend(self.golden, self.accelerator, self.recorder)

    def generate(self, backend: LinearBackend) -> GenerationResult:
        var = self.loaded.var
        var.linear_backend, var.step_hook = backend, self.recorder.begin_step
        return generate(var, self.loaded.vqvae, LABELS, seed=1)


@pytest.fixture(params=["fp4", "fp6"])
def setup(request: pytest.FixtureRequest) -> Setup:
    return Setup(request.param)


def test_device_and_golden_generate_the_same(setup: Setup) -> None:
    golden = setup.generate(setup.golden)
    alone = setup.generate(setup.accelerator)
    compared = setup.generate(setup.comparing)
    for other in (alone, compared):
        assert all(map(torch.equal, golden.tokens, other.tokens))
        assert torch.equal(golden.images_BCHW, other.images_BCHW)
    assert setup.recorder.mismatches == 0
    assert setup.recorder.divergences == []
    jobs = setup.recorder.jobs
    assert [(j.step, j.block, j.site) for j in jobs] == [
        (step, 0, site) for step in (0, 1) for site in ("qkv", "proj", "fc1", "fc2")
    ]
    assert [j.rows for j in jobs] == [4] * 4 + [16] * 4
    assert jobs[3].compared == {"scale": 8, "scale_neg": 8, "codes": 4 * 256, "result": 4 * 128}
    assert "scale_neg" not in jobs[0].compared
    assert jobs[4].macs == 16 * 128 * 384
    assert jobs[0].run.jobs == jobs[0].dump.jobs == 1


def test_a_wrong_weight_is_found_in_its_output(setup: Setup) -> None:
    site = LinearSite(0, "fc1")
    layer = setup.quantized[site]
    codes = layer.codes.copy()
    codes[77, :128] = np.roll(codes[77, :128], 1)
    broken = QuantizedModel(
        setup.quantized.config, {**setup.quantized.layers, site: replace(layer, codes=codes)}
    )
    setup.comparing.reference = GoldenBackend(broken)
    setup.generate(setup.comparing)
    first = setup.recorder.divergences[0]
    assert (first.step, first.site, first.tensor, first.column) == (0, "block0.fc1", "result", 77)
    assert first.expected != first.got
    totals = setup.recorder.totals()
    assert totals["codes"]["mismatches"] == totals["scale"]["mismatches"] == 0
    assert 0 < totals["result"]["mismatches"] <= 20  # one output feature of 4 + 16 rows


def test_a_wrong_code_is_found_before_its_results(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    import host_oracle

    right = host_oracle.quantize

    def wrong(*arguments: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        codes, scale, negative = right(*arguments)  # type: ignore[arg-type]
        codes[-1, 5] ^= 1
        return codes, scale, negative

    monkeypatch.setattr(host_oracle, "quantize", wrong)
    setup.generate(setup.comparing)
    first = setup.recorder.divergences[0]
    # Four rows of one token at step 0: the last row is sample 3.
    assert (first.step, first.site, first.tensor) == (0, "block0.qkv", "codes")
    assert (first.sample, first.token, first.column) == (3, 0, 5)
    assert (first.count, first.expected ^ first.got) == (1, 1)
    assert setup.recorder.divergences[1].tensor == "result"
    assert "step 0, block0.qkv, codes[sample 3, token 0, 5]" in str(first)


def test_the_policy_stop_ends_the_run(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.comparing.on_mismatch = "stop"
    original = setup.comparing.reference.compute

    def shifted(site: LinearSite, rows: np.ndarray) -> object:
        result = original(site, rows)
        return result._replace(y=-result.y) if site.name == "proj" else result

    monkeypatch.setattr(setup.comparing.reference, "compute", shifted)
    with pytest.raises(DivergenceError, match=r"step 0, block0\.proj, result") as caught:
        setup.generate(setup.comparing)
    assert caught.value.divergence is setup.recorder.divergences[0]
    assert len(setup.recorder.jobs) == 2
    with pytest.raises(ValueError, match="on_mismatch is 'ask'"):
        ComparingBackend(setup.golden, setup.accelerator, Recorder(), "ask")  # type: ignore[arg-type]


def test_a_model_of_another_shape_is_refused(setup: Setup) -> None:
    site = LinearSite(0, "qkv")
    with pytest.raises(BadInput, match=r"block0\.qkv: packed weights are \(384, 128\)"):
        setup.accelerator(site, torch.zeros(1, 1, 256), torch.zeros(384, 256), None)


def test_recorder_compares_bits_and_refuses_other_shapes() -> None:
    recorder = Recorder(step=3)
    zeros = np.zeros((6, 4), np.float32)
    counts = recorder.compare("block1.qkv", 3, {"result": zeros}, {"result": -zeros})
    assert counts == ({"result": 24}, {"result": 24})  # -0.0 is another pattern
    first = recorder.divergences[0]
    assert (first.step, first.sample, first.token, first.column) == (3, 0, 0, 0)
    assert (first.expected, first.got) == (0, 0x80000000)
    for other in (zeros[:5], zeros.astype(np.uint16)):
        with pytest.raises(ValueError, match="expected uint32"):
            recorder.compare("block1.qkv", 3, {"result": zeros}, {"result": other})
    for _ in range(40):
        recorder.compare("block1.qkv", 3, {"result": zeros}, {"result": zeros + 1})
    assert len(recorder.divergences) == 16
