# SPDX-License-Identifier: Apache-2.0
"""Regenerate the fixtures under data/ by running the released code of RAR and PAR on the CPU.

Usage, in tests: python -m quant.generators.make_fixtures CHECKOUT_OF_bytedance/1d-tokenizer
CHECKOUT_OF_Epiphqny/PAR

Packages that only training needs are replaced by empty modules, and timm's Mlp by its definition.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quant.var.make_fixtures import shapes_only
from torch import Tensor, nn

from lutvar.quant.generators import ParConfig, RarConfig, TokenizerConfig
from lutvar.quant.generators.config import PAR_SIZES, RAR_SIZES
from support.quant.generator_cases import CASES, TOKENIZERS, GeneratorCase, released_state, waves

DATA = Path(__file__).parent / "data"
#: Every how many logits the fixtures keep one.
STRIDE = 7


class Settings(dict[str, Any]):
    """A nested dictionary with attributes, as the released configurations are."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Mlp(nn.Module):
    """timm's: fc1, activation, fc2; dropout does nothing in evaluation."""

    def __init__(self, in_features: int, hidden_features: int, act_layer: Any, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features, in_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def import_rar(checkout: Path) -> tuple[Any, Any]:
    """The released modules of RAR and of its tokenizer."""
    for name in ("timm", "timm.layers", "modeling", "modeling.modules"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["timm.layers"].Mlp = Mlp  # type: ignore[attr-defined]
    sys.modules["modeling.modules"].BaseModel = nn.Module  # type: ignore[attr-defined]
    for package, folder in (("modeling", "modeling"), ("modeling.modules", "modeling/modules")):
        sys.modules[package].__path__ = [str(checkout / folder)]
    names = ("modeling.rar", "modeling.modules.maskgit_vqgan")
    rar, tokenizer = (importlib.import_module(name) for name in names)
    return rar, tokenizer


def import_par(checkout: Path) -> tuple[Any, Any, Any]:
    """The released modules of PAR, of its sampler and of its tokenizer."""
    sys.path.insert(0, str(checkout))
    names = ("models.gpt", "models.generate")
    gpt, sampler = (importlib.import_module(f"autoregressive.{name}") for name in names)
    return gpt, sampler, importlib.import_module("tokenizer.tokenizer_image.vq_model")


def build_rar(module: Any, c: RarConfig) -> Any:
    generator = Settings(
        hidden_size=c.width, num_hidden_layers=c.depth, num_attention_heads=c.heads,
        intermediate_size=c.hidden, image_seq_len=c.tokens, condition_num_classes=c.num_classes,
        dropout=0.1, attn_drop=0.1,
    )  # fmt: skip
    vq = Settings(codebook_size=c.vocab)
    return module.RAR(Settings(model=Settings(generator=generator, vq_model=vq))).eval()


def build_par(module: Any, c: ParConfig) -> Any:
    args = module.ModelArgs(
        dim=c.width, n_layer=c.depth, n_head=c.heads, vocab_size=c.vocab, block_size=c.tokens,
        num_classes=c.num_classes, ar_token_num=c.group, spe_token_num=c.group - 1,
    )  # fmt: skip
    return module.Transformer(args).eval()


def build_maskgit(module: Any, c: TokenizerConfig) -> Any:
    config = Settings(
        channel_mult=list(c.ch_mult), num_resolutions=len(c.ch_mult), dropout=0.0,
        hidden_channels=c.ch, num_channels=3, num_res_blocks=2, resolution=c.image_size,
        z_channels=c.z_channels,
    )  # fmt: skip
    model = nn.Module()
    model.encoder, model.decoder = module.Encoder(config), module.Decoder(config)
    model.quantize = module.VectorQuantizer(c.vocab, c.z_channels, 0.25)
    return model.eval()


def build_vq16(module: Any, c: TokenizerConfig) -> Any:
    args = module.ModelArgs(
        codebook_size=c.vocab, codebook_embed_dim=c.code_channels, z_channels=c.z_channels,
        encoder_ch_mult=list(c.ch_mult), decoder_ch_mult=list(c.ch_mult),
    )  # fmt: skip
    model = module.VQModel(args)
    if c.ch != 128:
        shape = {"ch": c.ch, "ch_mult": c.ch_mult, "z_channels": c.z_channels}
        model.encoder, model.decoder = module.Encoder(**shape), module.Decoder(**shape)
    return model.eval()


def fill(model: nn.Module) -> None:
    state = model.state_dict()
    values = released_state({k: list(v.shape) for k, v in state.items() if "_used" not in k})
    model.load_state_dict(state | values)


def manifest(model: nn.Module) -> dict[str, list[int]]:
    """Names and shapes; equal entries of all blocks become one."""
    folded: dict[str, list[int]] = {}
    count = 0
    for key, value in model.state_dict().items():
        match = re.match(r"(blocks|layers)\.(\d+)\.(.*)", key)
        if match is None:
            folded[key] = list(value.shape)
            continue
        count = max(count, int(match[2]))
        name = f"{match[1]}.N.{match[3]}"
        assert folded.setdefault(name, list(value.shape)) == list(value.shape)
    return {k.replace(".N.", f".{{0..{count}}}."): v for k, v in folded.items()}


def thin(logits: list[Tensor]) -> np.ndarray:
    return np.stack([x.float().flatten()[::STRIDE].numpy() for x in logits])


@torch.no_grad()
def run_rar(module: Any, case: GeneratorCase) -> dict[str, np.ndarray]:
    model, logits = build_rar(module, case.config), []
    fill(model)
    forward = model.forward_fn

    def recorded(*args: Any, **kwargs: Any) -> Tensor:
        logits.append(forward(*args, **kwargs)[:, -1])
        return logits[-1]

    labels, s = torch.tensor(case.labels), case.sampling
    model.forward_fn = lambda *a, **k: recorded(*a, **k).unsqueeze(1)
    torch.manual_seed(case.seed)
    tokens = model.generate(labels.clone(), s.cfg, s.temperature, s.power)
    classes = labels + case.config.vocab + 1
    given = tokens.flip(0)
    orders = torch.arange(case.config.tokens).flip(0).expand(len(labels), -1)
    return {
        "tokens": tokens.numpy(),
        "logits": thin(logits),
        "forced": forward(given, classes)[:, :-1].numpy(),
        "reversed": forward(given, classes, orders=orders)[:, :-1].numpy(),
    }


@torch.no_grad()
def run_par(gpt: Any, sampler: Any, case: GeneratorCase) -> dict[str, np.ndarray]:
    model, logits, c, s = build_par(gpt, case.config), [], case.config, case.sampling
    fill(model)
    labels = torch.tensor(case.labels)
    generator = torch.Generator().manual_seed(1)
    given = torch.randint(c.vocab, (len(labels), c.tokens), generator=generator)
    forced = model(given, labels)[0][:, : c.tokens]
    model.register_forward_hook(lambda m, a, out: logits.append(out[0]))
    torch.manual_seed(case.seed)
    tokens = sampler.generate(
        model, labels, c.tokens, cfg_scale=s.cfg, ar_token_num=c.group, spe_token_num=c.group - 1,
        temperature=s.temperature, top_k=s.top_k, top_p=s.top_p or 1.0,
    )  # fmt: skip
    side, sub = round(c.tokens**0.5), round(c.group**0.5)
    grid = tokens.reshape(len(labels), side // sub, side // sub, sub, sub)
    return {
        "tokens": tokens.numpy(),
        "image_tokens": grid.permute(0, 3, 1, 4, 2).reshape(len(labels), -1).numpy(),
        "logits": thin([torch.cat(logits, 1)]),
        "given": given.numpy(),
        "forced": forced[:, :, ::STRIDE].numpy(),
    }


@torch.no_grad()
def run_tokenizers(maskgit: Any, vq: Any) -> dict[str, np.ndarray]:
    results: dict[str, np.ndarray] = {}
    for kind, c in TOKENIZERS.items():
        image = waves(c.image_size)
        if kind == "maskgit":
            model = build_maskgit(maskgit, c)
            fill(model)
            tokens = model.quantize(model.encoder(image))[1]
            pixels = model.decoder(model.quantize.get_codebook_entry(tokens)).clamp(0, 1)
        else:
            model = build_vq16(vq, c)
            fill(model)
            tokens = model.encode(image * 2 - 1)[2][2].view(len(image), -1)
            shape = [len(image), c.code_channels, c.side, c.side]
            pixels = (model.decode_code(tokens, shape).clamp(-1, 1) + 1) / 2
        results |= {f"{kind}_tokens": tokens.numpy(), f"{kind}_pixels": pixels.numpy()}
    return results


def manifests(rar: Any, maskgit: Any, gpt: Any, vq: Any) -> dict[str, dict[str, list[int]]]:
    with shapes_only():
        result = {n: manifest(build_rar(rar, RarConfig.official(n))) for n in RAR_SIZES}
        result |= {n: manifest(build_par(gpt, ParConfig.official(n))) for n in PAR_SIZES}
        result["maskgit"] = manifest(build_maskgit(maskgit, TokenizerConfig.official("maskgit")))
        result["vq16"] = manifest(build_vq16(vq, TokenizerConfig.official("vq16")))
    return result


def main(rar_checkout: Path, par_checkout: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rar, maskgit = import_rar(rar_checkout)
    gpt, sampler, vq = import_par(par_checkout)
    DATA.mkdir(exist_ok=True)
    lines = [
        f'"{name}": {json.dumps(value)}' for name, value in manifests(rar, maskgit, gpt, vq).items()
    ]
    (DATA / "manifests.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    for case in CASES:
        is_rar = isinstance(case.config, RarConfig)
        found = run_rar(rar, case) if is_rar else run_par(gpt, sampler, case)
        np.savez_compressed(DATA / f"{case.name}.npz", **found)
    np.savez_compressed(DATA / "tokenizers.npz", **run_tokenizers(maskgit, vq))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
