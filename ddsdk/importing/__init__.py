"""Import of distilled sets that other code has saved, in the layouts of the field's repositories."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
