"""The synthetic set: parametrizations, labels, learned learning rates, and initial images."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
