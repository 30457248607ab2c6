# SPDX-License-Identifier: Apache-2.0
"""The matrix engine: from FP16 rows and packed weights to float32 rows.

``engine`` joins a front end (``activations``: transform, quantizer, banks), a weight loader
(``weights``), a back end (``sequencer``, ``array``) and the way out (``output``).
"""
