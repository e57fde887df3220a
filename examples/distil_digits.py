"""The whole job in Python: distil, judge, save, open again."""

import ddsdk

train, test = ddsdk.load_pair("digits")
student = ddsdk.network_factory("convnet", train.image_shape, train.num_classes, width=32)
recipe = ddsdk.DM(ipc=1, steps=100, augmentation="color_crop_scale_rotate")

distilled = ddsdk.distill(recipe, train, make_student=student, seed=ddsdk.generator(0))
distilled.save("out/digits")

again = ddsdk.Distilled.load("out/digits")
protocol = ddsdk.TrainingProtocol.quick(recipe.augmentation)
score = ddsdk.evaluate((again.images, again.labels), test, protocol, seed=0)
print(f"{len(again)} images: {100 * score.mean:.1f} % ({score.network}, protocol {score.protocol})")
