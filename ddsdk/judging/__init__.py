"""Evaluation of distilled sets: scores under a protocol, validation during a run, and privacy audits.

The audits are membership-inference attacks and a search for copies of records.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
