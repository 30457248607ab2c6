# SPDX-License-Identifier: Apache-2.0
"""From a transformer and a pass to a program of the accelerator.

`model_layout` says where a packed model's parts lie, `packed` fills them, `compiler` turns passes
into programs, `check` proves a program's order, `disassemble` prints it.
"""
