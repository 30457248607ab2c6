# SPDX-License-Identifier: Apache-2.0
"""Generation with the whole transformer on the accelerator: compare, measure, draw."""
