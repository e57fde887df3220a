"""Tileable textures: distil canvases with any matching recipe, measure their seams and export PNG tiles.

>>> import ddsdk
>>> from ddsdk_integrations.texture import distil_canvases, seam_scores
>>> real = ddsdk.load("digits")
>>> factory = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
>>> canvases = distil_canvases(ddsdk.DM(ipc=1, steps=2, real_batch=16), real, make_student=factory, seed=0)
>>> seam_scores(canvases.images).shape
torch.Size([10, 2])
"""

from __future__ import annotations

from ddsdk_integrations.texture.canvases import distil_canvases, windows_of
from ddsdk_integrations.texture.seam import repeat_tiles, seam_scores
from ddsdk_integrations.texture.tiles import draw_gallery, export_tiles

__all__ = ["distil_canvases", "draw_gallery", "export_tiles", "repeat_tiles", "seam_scores", "windows_of"]
