"""Shared basics of all rooms: errors, keyed random generators, atomic files, units of work, and safe text."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
