"""The ground floor: errors, keyed random generators, whole files, units of work, and text made harmless."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
