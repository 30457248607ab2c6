# SPDX-License-Identifier: Apache-2.0
"""Model files: round trips, released .pth files, and every way a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lutvar.quant.var import CheckpointError, Var, Vqvae, load_var, load_vqvae, save_model
from support.quant.var_cases import CASES, Case
from support.quant.var_weights import fill

CASE = CASES[0]


@pytest.fixture(scope="module")
def var() -> Var:
    model = Var(CASE.var).eval()
    fill(model)
    return model


@pytest.fixture(scope="module")
def vqvae() -> Vqvae:
    model = Vqvae(CASE.vqvae).eval()
    fill(model)
    return model


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_safetensors_round_trip(tmp_path: Path, var: Var, vqvae: Vqvae) -> None:
    save_model(tmp_path / "var.safetensors", var)
    save_model(tmp_path / "vqvae.safetensors", vqvae)
    again = load_var(tmp_path / "var.safetensors")
    assert again.config == CASE.var and same(again, var) and not again.training
    tokenizer = load_vqvae(tmp_path / "vqvae.safetensors")
    assert tokenizer.config == CASE.vqvae and same(tokenizer, vqvae)


def test_half_storage_rounds_once(tmp_path: Path, var: Var) -> None:
    save_model(tmp_path / "a.safetensors", var, half=True)
    once = load_var(tmp_path / "a.safetensors")
    assert torch.equal(once.head.weight, var.head.weight.half().float())
    assert not torch.equal(once.head.weight, var.head.weight)
    save_model(tmp_path / "b.safetensors", once, half=True)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_half_storage_refuses_overflow(tmp_path: Path) -> None:
    model = Var(CASE.var)
    with torch.no_grad():
        model.head.bias[0] = 1e6
    with pytest.raises(CheckpointError, match=r"head\.bias.*float16.*save without half"):
        save_model(tmp_path / "x.safetensors", model, half=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_pth_needs_no_configuration(tmp_path: Path, case: Case) -> None:
    model = Var(case.var)
    torch.save(model.state_dict(), tmp_path / "var.pth")
    again = load_var(tmp_path / "var.pth")
    # Dropping labels is a matter of training and not in the file.
    assert again.config.to_dict() == {**case.var.to_dict(), "cond_drop_rate": 0.1}
    assert same(again, model)


def test_pth_tokenizer_of_another_number_of_scales(tmp_path: Path, vqvae: Vqvae) -> None:
    """The released tokenizer has statistics of 10 scales and serves 14 scales as well."""
    state = vqvae.state_dict() | {"quantize.ema_vocab_hit_SV": torch.ones(9, 96)}
    torch.save(state, tmp_path / "vae.pth")
    loaded = load_vqvae(tmp_path / "vae.pth", CASE.vqvae)
    assert loaded.quantize.ema_vocab_hit_SV.shape == (4, 96)
    assert torch.equal(loaded.quantize.embedding.weight, vqvae.quantize.embedding.weight)
    with pytest.raises(CheckpointError, match=r"is read with the transformer"):
        load_vqvae(tmp_path / "vae.pth")


def test_missing_extra_and_misshaped_keys_are_listed(tmp_path: Path, var: Var) -> None:
    state = {k: v for k, v in var.state_dict().items() if ".ffn." not in k}
    state["head.weight"] = torch.zeros(3, 128)
    state["ema.decay"] = torch.zeros(1)
    torch.save(state, tmp_path / "var.pth")
    with pytest.raises(CheckpointError) as caught:
        load_var(tmp_path / "var.pth", CASE.var)
    text = str(caught.value)
    assert "8 missing: blocks.0.ffn.fc1.weight [512, 128]" in text and "and 4 more" in text
    assert "1 not expected: ema.decay [1]" in text
    assert "1 wrong shape: head.weight: found [3, 128], expected [96, 128]" in text


def test_scales_that_contradict_the_file(tmp_path: Path) -> None:
    """(2, 5, 6) and (4, 7) have the same number of tokens, so only the buffers tell."""
    config = CASE.var.to_dict()
    model = Var(type(CASE.var).from_dict(config | {"patch_nums": [2, 5, 6]}))
    torch.save(model.state_dict(), tmp_path / "var.pth")
    other = type(CASE.var).from_dict(config | {"patch_nums": [4, 7]})
    with pytest.raises(CheckpointError, match=r"patch_nums = \(4, 7\)"):
        load_var(tmp_path / "var.pth", other)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_truncated_file(tmp_path: Path, var: Var, ending: str) -> None:
    path = tmp_path / f"var{ending}"
    if ending == ".pth":
        torch.save(var.state_dict(), path)
    else:
        save_model(path, var)
    data = path.read_bytes()
    for keep in (len(data) // 2, 5, 0):
        path.write_bytes(data[:keep])
        with pytest.raises(CheckpointError, match="not a complete"):
            load_var(path)


def test_wrong_files(tmp_path: Path, var: Var, vqvae: Vqvae) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_var(tmp_path / "none.pth")
    (tmp_path / "x.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"unknown ending '\.ckpt'"):
        load_var(tmp_path / "x.ckpt")
    save_model(tmp_path / "vqvae.safetensors", vqvae)
    with pytest.raises(CheckpointError, match="holds a vqvae model"):
        load_var(tmp_path / "vqvae.safetensors")
    torch.save({"trainer": {"x": torch.zeros(1)}}, tmp_path / "nested.pth")
    with pytest.raises(CheckpointError, match=r"no transformer, but trainer \(tables of"):
        load_var(tmp_path / "nested.pth")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"not a VAR transformer .*: it has no lvl_1L"):
        load_var(tmp_path / "other.safetensors")
    odd = {"lutvar": '{"var": {"depth": 1, "size": 2}}'}
    save_file({"x": torch.zeros(1)}, tmp_path / "odd.safetensors", odd)
    with pytest.raises(CheckpointError, match=r"odd\.safetensors: its configuration .* 'size'"):
        load_var(tmp_path / "odd.safetensors")
    ints = var.state_dict() | {"head.bias": torch.zeros(96, dtype=torch.int64)}
    torch.save(ints, tmp_path / "ints.pth")
    with pytest.raises(CheckpointError, match=r"head\.bias: found torch\.int64"):
        load_var(tmp_path / "ints.pth")
