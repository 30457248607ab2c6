# SPDX-License-Identifier: Apache-2.0
"""Released VAR checkpoints as models: `var_d16.pth` with the tokenizer's file beside it.

Source: VAR (arXiv:2404.02905) and the file names of its release. The sampling settings are those
of the published FID figures.
"""

from __future__ import annotations

from pathlib import Path

from lutvar.quant.var import VqvaeConfig, load_var, load_vqvae

from .model import LoadedModel, ModelError, ModelInfo, sha256_of

#: The released tokenizer; it belongs to all transformers of the release.
TOKENIZER = "vae_ch160v4096z32.pth"
CFG, TOP_K, TOP_P = 1.5, 900, 0.96


def load_official(path: str | Path) -> LoadedModel:
    """Load a released transformer and the tokenizer in the same folder.

    Raises:
        ModelError: a file is missing.
        CheckpointError: a file that holds something else.
    """
    path = Path(path)
    tokenizer = path.with_name(TOKENIZER)
    for file in (path, tokenizer):
        if not file.is_file():
            raise ModelError(
                f"{file}: missing; a released checkpoint needs {TOKENIZER} beside it, both from "
                "https://huggingface.co/FoundationVision/var"
            )
    var = load_var(path)
    vqvae = load_vqvae(tokenizer, VqvaeConfig.official(var.config.patch_nums))
    info = ModelInfo(
        name=path.stem,
        cfg=CFG,
        top_k=TOP_K,
        top_p=TOP_P,
        classes=tuple(str(i) for i in range(var.config.num_classes)),
        figures={},
        files={file.name: sha256_of(file) for file in (path, tokenizer)},
        var=var.config,
        vqvae=vqvae.config,
    )
    return LoadedModel(var, vqvae, info, path.parent)
