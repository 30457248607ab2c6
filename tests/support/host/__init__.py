# SPDX-License-Identifier: Apache-2.0
"""Shapes and programs for the compiler, and a device that follows the register map."""
