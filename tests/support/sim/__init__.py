# SPDX-License-Identifier: Apache-2.0
"""The simulated accelerator with random and real models, and testbenches that must fail."""
