"""Tileable textures of classes: canvases that any matcher distils, a measured seam, and PNG files that tile.

>>> from ddsdk_integrations.texture import distil_canvases, export_tiles, seam_scores
>>> canvases = distil_canvases(ddsdk.DM(ipc=1), real, seed=0)
>>> export_tiles(canvases, "out/tiles")  # refused where an edge shows
"""

from __future__ import annotations

from ddsdk_integrations.texture.canvases import distil_canvases, windows_of
from ddsdk_integrations.texture.seam import seam_scores, tiled
from ddsdk_integrations.texture.tiles import draw_gallery, export_tiles

__all__ = ["distil_canvases", "draw_gallery", "export_tiles", "seam_scores", "tiled", "windows_of"]
