"""Make, judge and use distilled data.

Names are loaded on first use: `import ddsdk` is cheap, and the command line answers before torch is imported.
`__init__.pyi` lists what is public.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
