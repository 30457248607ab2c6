# SPDX-License-Identifier: Apache-2.0
"""What `lutvar demo --edit` edits; the run itself is in test_device_images.py."""

from __future__ import annotations

import numpy as np

from lutvar.quant.models import load_model
from lutvar.sim.run.demo_edits import demo_edits


def test_three_tasks_in_turn() -> None:
    loaded = load_model("digits")
    edited = demo_edits(loaded, [3, 8, -1, 7], [0, 1, 2, 3])
    assert edited.tasks == ["in-painting", "out-painting", "to 5", "in-painting"]
    assert edited.labels == [-1, -1, 5, -1]
    kept = [edit.keep[-1].reshape(4, 4) for edit in edited.edits]
    np.testing.assert_array_equal(kept[0], ~kept[1])
    assert kept[0].sum() == 12 and not kept[0][1:3, 1:3].any()
    np.testing.assert_array_equal(kept[2], kept[0])
    tokens = loaded.vqvae.encode(edited.given_BCHW * 2 - 1)
    for i, edit in enumerate(edited.edits):
        for given, mine in zip(tokens, edit.tokens, strict=True):
            np.testing.assert_array_equal(mine, given[i].numpy())
