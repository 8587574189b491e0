"""Experiments: benchmarks of heads, scaling with tasks, trainability, robustness, reports."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
