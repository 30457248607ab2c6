# SPDX-License-Identifier: Apache-2.0
"""Number formats, post-training quantization and the golden VAR model (PyTorch)."""
