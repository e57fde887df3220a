"""Textures of classes that tile, as PNG files, with their seam measured.

python examples/tileable_texture.py
"""

import shutil
from pathlib import Path

import ddsdk as dd
from ddsdk_integrations.texture import distil_canvases, draw_gallery, export_tiles, seam_scores, windows_of

Path("out").mkdir(exist_ok=True)
train, _ = dd.load_pair("digits")
make_student = dd.network_factory("convnet", train.image_shape, 10, width=8, depth=2)
recipe = dd.DM(ipc=1, steps=60, augmentation="", real_batch=32, image_lr=5.0)  # any other matcher goes here

for wrap in (True, False):
    canvases = distil_canvases(recipe, train, make_student=make_student, seed=dd.generator("run"), windows=4, wrap=wrap)
    rows, columns = seam_scores(canvases.images).mean(0).tolist()
    print(f"windows {'wrap around' if wrap else 'stay inside'}: seam {rows:.2f} of rows, {columns:.2f} of columns")
    print(f"  {canvases.stored_floats} floats, as many as {canvases.stored_floats // 640} images of each class")
    shutil.rmtree("out/tiles", ignore_errors=True)
    try:
        export_tiles(canvases, "out/tiles")
        print("  written to out/tiles")
    except ValueError as error:
        print("  not exported:", error)
    if wrap:
        draw_gallery(canvases, "out/gallery.png", rng=dd.generator("gallery"))
        to_train_on = windows_of(canvases, 16, dd.generator("windows"))
        print(" ", to_train_on)
