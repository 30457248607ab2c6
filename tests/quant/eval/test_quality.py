# SPDX-License-Identifier: Apache-2.0
"""`lutvar quality`: rows, their order, and figures that must hold for the shipped model."""

from __future__ import annotations

import json

import pytest

from lutvar.cli.main import run


def test_rows_of_the_shipped_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quality", "--images", "10", "--teacher", "4", "--preset", "fp6", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [
        "unquantized", "block linears", "+ norm, GELU, residual of the device",
        "+ attention on E2M3", "+ attention on E2M1", "device, E2M3", "device, E2M1",
    ]  # fmt: skip
    first = rows[0]
    assert (first["kl_nats"], first["agreement"], first["same_tokens"]) == (0, 1, 1)
    for row in rows[1:]:
        assert row["preset"] == "fp6"
        assert 0 < row["kl_nats"] < 0.01 and 0 < row["error"] < 0.05
        assert row["agreement"] > 0.9 and row["requested"] >= 0.8
        assert 0.5 < row["same_tokens"] <= 1


def test_unknown_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quality", "--preset", "fp5"]) == 2
    assert "unknown quant preset 'fp5'" in capsys.readouterr().err
