# SPDX-License-Identifier: Apache-2.0
"""The main job on the device double: what it writes, and that it fails when something differs."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import host_oracle
import numpy as np
import pytest
import torch
from host_cases import tiny, tiny_model
from host_device import MockTransport
from PIL import Image

from lutvar.demo import job
from lutvar.run.compare import compare_generations
from lutvar.run.document import Heading, Paragraph, Table, to_html, to_markdown
from lutvar.run.sheet import SheetRow, write_sheet
from lutvar.host import Accelerator, PackedModel
from lutvar.quant.var import GenerationResult


@pytest.fixture
def mocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the device double and the tiny model where the job looks for the real ones."""
    hardware, quant = tiny()

    def prepare(quantized, *_arguments, **_options):  # type: ignore[no-untyped-def]
        layers = {layer.name: layer for layer in quantized.layers.values()}
        device = Accelerator(MockTransport(hardware, quant), hardware, quant)
        device.open()
        packed = PackedModel.pack(layers, hardware, quant)
        return job.Simulation(device, packed, Path("top.v"), {"configuration": "test"})

    monkeypatch.setattr(job, "prepare", prepare)
    monkeypatch.setattr(job, "load_model", lambda _name: tiny_model())
    monkeypatch.setattr(job, "load_hardware", lambda _name: hardware)


def test_the_job_reports_an_equal_run(
    mocked: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = job.run_demo(tmp_path / "demo", labels=[0, 2], seed=3, progress=True)
    assert report.ok and report.mismatches == 0 and report.end_to_end.equal
    assert report.end_to_end.tokens == 2 * 5
    data = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert data == json.loads(json.dumps(report.as_dict()))
    assert data["simulated"] is True and data["ok"] is True
    # Two scales of 4 and 16 rows; qkv, proj and fc1 have one group, fc2 has two.
    assert data["compared"]["scale"] == {"compared": 20 * 5, "mismatches": 0}
    assert data["compared"]["scale_neg"]["compared"] == 20 * 2
    assert data["compared"]["codes"]["compared"] == 20 * 5 * 128
    assert data["compared"]["result"]["compared"] == 20 * (384 + 128 + 256 + 128)
    performance = data["performance"]
    assert performance["overall"]["macs"] == 20 * 128 * (384 + 128 + 256 + 256)
    assert [p["name"] for p in performance["steps"]] == ["step 0", "step 1"]
    assert [p["name"] for p in performance["sites"]] == ["qkv", "proj", "fc1", "fc2"]
    assert sum(p["cycles"] for p in performance["steps"]) == performance["overall"]["cycles"]
    output = capsys.readouterr()
    assert output.out == ""
    assert "equals the golden model" in output.err
    markdown = (tmp_path / "demo" / "report.md").read_text()
    assert "| activation codes | 12,800 | 0 |" in markdown
    assert "![images" in markdown and "simulated" in markdown
    html = (tmp_path / "demo" / "report.html").read_text()
    assert "data:image/png;base64," in html and "activation codes" in html
    HTMLParser().feed(html)
    with Image.open(tmp_path / "demo" / "sheet.png") as sheet:
        assert sheet.width > 400 and sheet.height > 3 * 96


def test_the_job_reports_a_difference(
    mocked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = host_oracle.multiply

    def wrong(*arguments: object) -> np.ndarray:
        return right(*arguments) * np.float32(1.5)  # type: ignore[arg-type]

    monkeypatch.setattr(host_oracle, "multiply", wrong)
    report = job.run_demo(tmp_path, labels=[1], progress=False)
    assert not report.ok and report.mismatches > 0
    assert "DIFFERS" in report.verdict and "step 0, block0.qkv, result" in report.verdict
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["ok"] is False
    assert data["divergences"][0]["tensor"] == "result"
    assert "First differences" in (tmp_path / "report.md").read_text()


def _generation(seed: int) -> GenerationResult:
    torch.manual_seed(seed)
    tokens = [torch.randint(9, (2, 1)), torch.randint(9, (2, 4))]
    return GenerationResult(torch.rand(2, 1, 8, 8), tokens)


def test_generations_are_compared_by_token_and_bit() -> None:
    a = _generation(0)
    same = compare_generations(a, a)
    assert same.equal and same.psnr is None and same.tokens == 10 and same.values == 128
    images, tokens = a.images_BCHW.clone(), [t.clone() for t in a.tokens]
    images[1, 0, 2, 3] += 0.5
    tokens[1][0, 2] += 1
    other = compare_generations(a, GenerationResult(images, tokens))
    assert not other.equal
    assert (other.tokens_different, other.values_different, other.images_different) == (1, 1, 1)
    assert other.psnr == pytest.approx(-10 * np.log10(0.25 / 128), abs=1e-4)
    with pytest.raises(ValueError, match="different shape"):
        compare_generations(a, GenerationResult(images[:1], tokens))


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (16, 3), (200, 3)])
def test_the_sheet_magnifies_in_whole_steps(tmp_path: Path, side: int, channels: int) -> None:
    images = torch.zeros(2, channels, side, side)
    images[1, :, 0, 0] = 1
    rows = [SheetRow(f"row {i}", "detail", images) for i in range(3)]
    write_sheet(tmp_path / "s.png", rows, ["a", "b"], "title", "note")
    zoom = max(1, -(-96 // side))
    with Image.open(tmp_path / "s.png") as sheet:
        pixels = np.asarray(sheet.convert("L"))
    black = pixels == 0
    assert black.sum() == 3 * (2 * side * side - 1) * zoom * zoom
    with pytest.raises(ValueError, match="under 3 headings"):
        write_sheet(tmp_path / "s.png", rows, ["a", "b", "c"], "title", "note")


def test_pages_escape_what_they_show() -> None:
    page = [Heading("A & B"), Paragraph("x < y"), Table(("k", "v"), [("a|b", "<1>")])]
    markdown, html = to_markdown(page), to_html("t", page)
    assert markdown == "## A & B\n\nx < y\n\n| k | v |\n| --- | ---: |\n| a\\|b | <1> |\n"
    assert "<h2>A &amp; B</h2>" in html and "<td>&lt;1&gt;</td>" in html
