"""Make, judge and use distilled data.

The names that most users need are here; the parts of a method are in the rooms, such as `ddsdk.objectives`. Names are
loaded on first use: `import ddsdk` is cheap, and the command line answers before torch is imported. `__init__.pyi`
lists what is public.
"""

from importlib.metadata import version
from pathlib import Path

import lazy_loader

__version__ = version("ddsdk")
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
# Rooms are attributes too, and no part of `from ddsdk import *`.
__all__ = [name for name in _names if not (Path(__file__).parent / name).is_dir()]
