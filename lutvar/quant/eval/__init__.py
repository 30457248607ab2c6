# SPDX-License-Identifier: Apache-2.0
"""Measuring models and what quantization does to them: samples, distances, teacher forcing.

All figures on images use the small classifier that comes with a model. They compare runs of
this model; they are no ImageNet Inception figures. Those are in `imagenet`.
"""
