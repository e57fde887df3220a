"""Supplies of student networks: fresh, alternating, queues, pools, expert segments and fixed teachers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
