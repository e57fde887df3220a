"""What every room stands on: errors, random generators with keys, files that are written whole, text made harmless."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
