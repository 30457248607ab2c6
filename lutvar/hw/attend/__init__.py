# SPDX-License-Identifier: Apache-2.0
"""Unit ATTEND: attention over records of q, k and v (docs/arithmetic.md, section 11).

Three phases work on three blocks at a time. A block is one head and up to R query rows:

* scores (`scores.py`): K records against the rows' q, one key in each cycle;
* values (`values.py`): weights of the keys and the weighted sum of V records, one key a cycle;
* results (`results.py`): division by the sum of weights, 16 values in each cycle.
"""
