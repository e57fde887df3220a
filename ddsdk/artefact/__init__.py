"""The artefact: a distilled set as a file, with its checks, card, picture, page and export."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
