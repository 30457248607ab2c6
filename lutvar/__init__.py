# SPDX-License-Identifier: Apache-2.0
"""lutvar: low-bit floating-point VAR image generation on FPGAs, exact to the last bit."""

__version__ = "0.2.0"
