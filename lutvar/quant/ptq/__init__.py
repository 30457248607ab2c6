# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization: weights to codes, whole models, files."""
