"""Objectives: losses of the synthetic set that a distillation step minimises."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
