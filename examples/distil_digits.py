"""The whole job in Python: distil, judge, save, open again."""

import ddsdk

train, test = ddsdk.load_pair("digits")
student = ddsdk.network_factory("convnet", train.image_shape, train.num_classes, width=32)
recipe = ddsdk.DM(ipc=1, steps=100, augmentation="color_crop_scale_rotate")

distilled = ddsdk.distill(recipe, train, make_student=student, seed=ddsdk.generator(0))
distilled.save("out/digits")

again = ddsdk.Distilled.load("out/digits")
protocol = ddsdk.TrainingProtocol.quick(recipe.augmentation)
print(again.evaluate(test, protocol, baselines=["random"], train=train))
