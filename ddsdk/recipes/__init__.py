"""Recipes: one module for each paper, and their list `RECIPES`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
