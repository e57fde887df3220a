"""Dataset distillation: make, evaluate, store and use small synthetic data sets.

This package has the names that most users need. Its subpackages, such as `ddsdk.objectives`, have the parts of the
methods. Names are loaded on first use, so that ``import ddsdk`` does not import torch. The file `__init__.pyi` lists
the public names.

Examples:
    >>> import ddsdk
    >>> train, test = ddsdk.load_pair("digits")
    >>> distilled = ddsdk.distill(ddsdk.DM(ipc=1, steps=2), train)
    >>> len(distilled)
    10
"""

from importlib.metadata import version
from pathlib import Path

import lazy_loader

__version__ = version("ddsdk")
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
# Subpackages are attributes too, but `from ddsdk import *` does not import them.
__all__ = [name for name in _names if not (Path(__file__).parent / name).is_dir()]
