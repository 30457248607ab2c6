# SPDX-License-Identifier: Apache-2.0
"""What both sides obey: number formats, instructions, registers, memory layout, sizes."""
