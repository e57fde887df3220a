"""The synthetic set: parametrizations, labels, learned rates, and where a set starts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
