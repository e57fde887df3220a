"""Judging a set: scores under a protocol, validation during a run, and audits of membership and copies."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
