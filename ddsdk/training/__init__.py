"""Training of networks: by steps, through differentiable steps, and in closed form by kernel ridge regression."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
