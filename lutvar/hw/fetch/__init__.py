# SPDX-License-Identifier: Apache-2.0
"""Unit FETCH: reads packed weights from memory and streams them to MATRIX."""
