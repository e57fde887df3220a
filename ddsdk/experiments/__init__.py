"""Experiments of many runs: benchmark tables and accuracy-time curves, computed as work units of a store."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
