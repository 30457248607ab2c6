# SPDX-License-Identifier: Apache-2.0
"""The matrix unit: token rows that hold activations while weights pass by them."""
