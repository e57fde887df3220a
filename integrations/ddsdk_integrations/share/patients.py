"""Images as if they came from people: a stand-in for medical images, of which none can be had without asking."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

import ddsdk as dd
from ddsdk.foundation import derive, require_count


def simulated_patients(
    real: dd.RealData, per_patient: int, rng: torch.Generator, *, strength: float = 0.3
) -> tuple[dd.RealData, Tensor]:
    """Return the images as those of people, and who each is of, (N,) int64.

    A patient has one class and `per_patient` images, which share a brightness and a smooth background of their own, as
    images of one person from one device do.

    Args:
        real: Images of all patients.
        per_patient: Images of each patient; the last one of a class has fewer.
        rng: Generator of patients, brightness and background.
        strength: Strength of the background, in the unit range.
    """
    require_count("per_patient", per_patient)
    patient = torch.empty(len(real), dtype=torch.int64)
    count = 0
    for c in range(real.num_classes):
        index = real.index_of_class(c)
        order = index[torch.randperm(len(index), generator=derive(rng, "order", c))]
        patient[order] = count + torch.arange(len(order)) // per_patient
        count = int(patient[order].max()) + 1
    channels, *size = real.image_shape
    coarse = torch.rand(count, channels, 3, 3, generator=derive(rng, "background"))
    background = strength * interpolate(coarse, size, mode="bilinear", align_corners=True)
    gain = 0.6 + 0.4 * torch.rand(count, 1, 1, 1, generator=derive(rng, "gain"))
    unit = real.images.cpu()
    unit = unit if unit.is_floating_point() else unit.float() / 255
    images = ((1 - strength) * gain[patient] * unit + background[patient]).clamp(0, 1)
    made = dd.RealData(
        images,
        real.labels.cpu(),
        class_names=real.class_names,
        preprocess=real.preprocess,
        name=real.name,
        pictures=real.pictures,
        mirror_safe=real.mirror_safe,
    )
    return made, patient
