# SPDX-License-Identifier: Apache-2.0
"""The tokenizer's decoder as programs: from a latent map to pixels (docs/decoder.md).

Reading order: `lutvar/contract/decoder.py` (the steps), `layout` and `pack` (the weights), `plan`
(the maps), `stages` (what runs between two acts of the host), `tiling` and `banks` (how a map's
rows become tiles and windows share banks), `emit`, `compiler`.
"""
