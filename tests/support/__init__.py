# SPDX-License-Identifier: Apache-2.0
"""What several tests share: reference models, simulated units, doubles, cases.

Tests import it as `support`; `tests` is on the path (pyproject.toml).
"""
