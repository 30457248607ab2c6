# SPDX-License-Identifier: Apache-2.0
"""A shipped recipe over a model, made when it is first asked for and kept in the user's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lutvar.files import cache_folder, make_folder
from lutvar.quant.methods.recipes.files import fingerprint
from lutvar.quant.methods.recipes.recipe import load_recipe
from lutvar.quant.methods.resumable import quantize_to_file
from lutvar.quant.models import LoadedModel
from lutvar.sources import sources_hash

Progress = Callable[[int, int], None]
#: Folders whose code decides what a recipe makes of a model.
_SOURCES = ("contract", "quant/formats", "quant/methods", "quant/ptq", "quant/var")


@contextmanager
def quantized_by_name(
    loaded: LoadedModel, name: str, progress: Progress | None = None
) -> Iterator[Path]:
    """The file that `lutvar quantize --recipe NAME` would write for a model.

    The file's name holds a hash of the model, the recipe and the code of the methods: another
    version makes its own. Where nothing is kept (`cache_folder`) the file lasts for the context.

    Args:
        loaded: the float model with its tokenizer.
        name: a shipped recipe.
        progress: called as progress(done, of) while it is made.

    Raises:
        RecipeError: no such recipe.
        QuantizedFileError: another process makes the same file.
    """
    recipe = load_recipe(name)
    key = hashlib.sha256(
        f"{fingerprint(loaded.var)} {recipe.model_dump_json()} {sources_hash(*_SOURCES)}".encode()
    ).hexdigest()[:16]
    folder = cache_folder("quantized")
    with TemporaryDirectory() as temporary:
        path = (folder or Path(temporary)) / f"{recipe.name}-{key}.safetensors"
        if not path.exists():
            make_folder(path.parent)
            info = loaded.info
            quantize_to_file(
                loaded.var, loaded.vqvae, recipe, path,
                sampling=(info.cfg, info.top_k, info.top_p), progress=progress,
                classifier=loaded.classifier,
            )  # fmt: skip
        yield path
