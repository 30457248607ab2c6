# SPDX-License-Identifier: Apache-2.0
"""The whole accelerator: units, registers and memory ports under one top."""
