# SPDX-License-Identifier: Apache-2.0
"""Gateware built with wrong tables: the comparison must say so, and say where it began.

Two entries are wrong in one build. Positive magnitudes of 9.5 to 10 grid steps get the code of 12
instead of 8, and a weight of magnitude 12 multiplies as if it were 8. The cases below touch one of
them at a time, at a place of their choice.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from host_cases import gateware

from lutvar.host import Accelerator, PackedModel
from lutvar.host.backend import AcceleratorBackend
from lutvar.host.comparing import ComparingBackend
from lutvar.host.record import Recorder
from lutvar.host.sim_transport import SimTransport
from lutvar.hw.top.export import export
from lutvar.hw.units import product, quantizer_lane
from lutvar.quant.formats import NumberFormat
from lutvar.quant.golden import GoldenBackend
from lutvar.quant.ptq import QuantizedLinear, QuantizedModel
from lutvar.quant.var import LinearSite
from lutvar.sim import tools
from lutvar.sim.verilated import VerilatedTop
from lutvar.sim.verilator import build

pytestmark = pytest.mark.skipif(
    not tools.verilator().ok, reason="Verilator 5.036 or later is not installed"
)
_SITE = LinearSite(0, "proj")  # single-scale, not rotated
_HARDWARE, _QUANT = gateware("fp4")
_FORMAT = _QUANT.weight_format  # magnitudes 0, 1, 2, 3, 4, 6, 8, 12
_OUTPUTS, _BATCH, _TOKENS = 8, 2, 3


def _break_tables(patch: pytest.MonkeyPatch) -> None:
    decide = quantizer_lane.decide

    def wrong_decision(fmt: NumberFormat, negative: bool, ties: str) -> tuple[int, ...]:
        codes = list(decide(fmt, negative, ties))
        if not negative:
            assert codes[19 << 1] == fmt.encode_int(8, False)
            codes[19 << 1] = codes[19 << 1 | 1] = fmt.encode_int(12, False)
        return tuple(codes)

    patch.setattr(quantizer_lane, "decide", wrong_decision)
    design = type(product.make_product(_FORMAT, _QUANT.plain_format, _QUANT.dual_format))
    encode = design.encode_weight
    patch.setattr(design, "encode_weight", lambda self, m: encode(self, 8 if m == 12 else m))


@pytest.fixture(scope="module")
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Accelerator]:
    with pytest.MonkeyPatch.context() as patch:
        _break_tables(patch)
        manifest = export(_HARDWARE, _QUANT, tmp_path_factory.mktemp("broken"))
    cache = request.config.rootpath / "build" / "sim"
    library = build(manifest.verilog, _HARDWARE.stream_bytes, build_dir=cache)
    opened = Accelerator(SimTransport(VerilatedTop(library)), _HARDWARE, _QUANT)
    opened.open()
    yield opened
    opened.transport.close()


def _compare(device: Accelerator, grid: np.ndarray, weights: np.ndarray) -> Recorder:
    """Run inputs given in grid steps (12 is the largest of each row) against weight magnitudes."""
    rng = np.random.default_rng(0)
    signs = rng.integers(0, 2, weights.shape).astype(bool)
    codes = np.array(
        [[_FORMAT.encode_int(int(w), bool(s)) for w, s in zip(*row, strict=True)]
         for row in zip(weights, signs, strict=True)], np.uint8
    )  # fmt: skip
    layer = QuantizedLinear(
        _SITE,
        codes,
        np.full((_OUTPUTS, 1), 0x3C00, np.uint16),
        0,
        rng.standard_normal(_OUTPUTS).astype(np.float32),
        _FORMAT,
        _QUANT.plain_format,
        rotate=False,
    )
    model = QuantizedModel(_QUANT, {_SITE: layer})
    packed = PackedModel.pack({str(_SITE): layer}, _HARDWARE, _QUANT)
    recorder = Recorder()
    backend = ComparingBackend(GoldenBackend(model), AcceleratorBackend(device, packed), recorder)
    x = torch.tensor(grid, dtype=torch.float32).view(_BATCH, _TOKENS, 128) / 8
    backend(_SITE, x, torch.empty(_OUTPUTS, 128), None)
    return recorder


def _operands() -> tuple[np.ndarray, np.ndarray]:
    """Inputs on the grid with 12 as the maximum of each row, weights without magnitude 12."""
    rng = np.random.default_rng(1)
    grid = rng.choice([-8.0, -3, 0, 1, 2, 4, 6, 8], (_BATCH * _TOKENS, 128))
    grid[:, 0] = -12
    return grid, rng.choice([0, 1, 2, 3, 4, 6, 8], (_OUTPUTS, 128))


def test_what_does_not_touch_the_wrong_entries_agrees(device: Accelerator) -> None:
    recorder = _compare(device, *_operands())
    assert recorder.mismatches == 0
    assert recorder.totals()["result"]["compared"] == _BATCH * _TOKENS * _OUTPUTS


def test_a_wrong_product_shows_in_one_result(device: Accelerator) -> None:
    grid, weights = _operands()
    weights[5, 17] = 12
    grid[:, 17] = [0, 0, 4, 0, 0, 0]
    recorder = _compare(device, grid, weights)
    totals = recorder.totals()
    assert totals["codes"]["mismatches"] == totals["scale"]["mismatches"] == 0
    assert totals["result"]["mismatches"] == 1
    first = recorder.divergences[0]
    assert (first.site, first.tensor) == ("block0.proj", "result")
    assert (first.sample, first.token, first.column) == (0, 2, 5)


def test_a_wrong_decision_shows_in_one_code_first(device: Accelerator) -> None:
    grid, weights = _operands()
    grid[4, 99] = 9.75
    recorder = _compare(device, grid, weights)
    assert recorder.totals()["codes"]["mismatches"] == 1
    first, second = recorder.divergences[:2]
    assert (first.tensor, first.sample, first.token, first.column) == ("codes", 1, 1, 99)
    assert (first.expected, first.got) == (_FORMAT.encode_int(8, False), 7)
    assert (second.tensor, second.sample, second.token) == ("result", 1, 1)
