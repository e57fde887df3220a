"""Published constants of all recipes: the default of each parameter that the paper or the authors' code gives.

Parameters whose defaults are smaller than published, for a CPU, are left out; the classes name them. The sources are
the paper of the recipe, its appendix, or the configuration of the authors' code.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_recipes import RECIPE_SETTINGS

import ddsdk as dd
from ddsdk.recipes import RECIPES

# Gradient matching with 1000 networks, image rate 0.1 and momentum 0.5, network rate 0.01.
DC = {"students": 1000, "image_lr": 0.1, "image_momentum": 0.5, "student_lr": 0.01, "real_batch": 256}
DC_OPTIMIZER = {"kind": "SGD", "lr": 0.1, "momentum": 0.5}
IDC = {"steps_per_student": 100, "student_lr": 0.01, "image_momentum": 0.5, "synthetic_images": 128, "mix": 0.5}
TRAJECTORY = {"expert_span": 2, "experts": 100, "expert_epochs": 50, "expert_lr": 0.01, "image_momentum": 0.5}
# Each value over the number of images: 10, 100 and 500.
MTT_VALUES = {
    "student_steps": {10: 50, 100: 30, 500: 30},
    "max_start": {10: 2, 100: 20, 500: 40},
    "image_lr": {10: 100, 100: 100, 500: 1000},
    "rate_lr": {10: 1e-7, 100: 1e-5, 500: 1e-5},
    "student_lr": {10: 0.01, 100: 0.001, 500: 0.01},
}

PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "dc": ("Zhao et al., ICLR 2021, and VICO-UoE/DatasetCondensation", {**DC, "start": "noise", "augmentation": ""}),
    "dsa": ("Zhao and Bilen, ICML 2021, and the same repository", {**DC, "start": "real"}),
    "dcc": ("Lee et al., ICML 2022, and Saehyung-Lee/DCC", {**DC, "start": "real", "warm_up_steps": 10}),
    "jiang": ("Jiang et al., 2022: the loops of DC", DC),
    "idc": (
        "Kim et al., ICML 2022, argument.py of snu-mllab/Efficient-Dataset-Condensation",
        {**IDC, "real_batch": 64, "augmentation": "color+crop+cutout", "start": "real"},
    ),
    "dream": ("Liu et al., ICCV 2023, and lyq312318224/DREAM", {**IDC, "real_batch": 128, "start": "k-means"}),
    "acc-dd": (
        "Zhang et al., CVPR 2023, and ncsu-dk-lab/Acc-DD",
        {**IDC, "real_batch": 64, "pool": 5, "pool_epochs": 2, "low": 0.01, "high": 0.09},
    ),
    "dm": (
        "Zhao and Bilen, WACV 2023, and VICO-UoE/DatasetCondensation",
        {"steps": 20_000, "image_momentum": 0.5, "real_batch": 256, "start": "real"},
    ),
    "cafe": (
        "Wang et al., CVPR 2022, and kaiwang960112/CAFE",
        {
            "real_batch": 256,
            "decay": 0.5,
            "early_weight": 0.1,
            "last_weight": 1.0,
            "discrimination": 0.01,
            "student_lr": 0.01,
            "moved": 0.03,
            "settled": 0.04,
            "start": "noise",
            "augmentation": "",
        },
    ),
    "idm": (
        "Zhao et al., CVPR 2023, and uitrbn/IDM",
        {"steps": 20_000, "image_momentum": 0.5, "factor": 2, "queue": 100, "student_steps": 10, "student_batch": 256},
    ),
    "datadam": (
        "Sajedi et al., ICCV 2023, table of hyperparameters",
        {"steps": 8000, "power": 4.0, "output_weight": 0.01, "scale": 100.0, "real_batch": 256, "image_momentum": 0.5},
    ),
    "m3d": ("Zhang et al., AAAI 2024", {"steps": 10_000, "factor": 2, "real_batch": 256}),
    "ncfm": (
        "Wang et al., CVPR 2025, and gszfwsb/NCFM",
        {
            "steps": 20_000,
            "real_batch": 1024,
            "factor": 2,
            "frequencies": 4096,
            "scale": 300.0,
            "amplitude_weight": 0.5,
            "calibration": 1.0,
            "pool": 20,
            "pool_epochs": 60,
        },
    ),
    "sre2l": ("Yin et al., NeurIPS 2023: recovery", {"image_lr": 0.25, "weight": 0.01, "batch": 100}),
    "rded": ("Sun et al., CVPR 2024: 300 images and 5 crops of each", {"images": 300, "crops": 5}),
    "mtt": ("Cazenavette et al., CVPR 2022; FTD's table 7", {**TRAJECTORY, "steps": 5000, "values": MTT_VALUES}),
    "ftd": (
        "Du et al., CVPR 2023, table 7",
        {
            **TRAJECTORY,
            "steps": 5000,
            "sharpness": 0.01,
            "surrogate": 0.3,
            "values": {**MTT_VALUES, "average": {10: 0.9999, 100: 0.9995, 500: 0.999}},
        },
    ),
    "tesla": (
        "Cui et al., ICML 2023, and justincui03/tesla",
        {**TRAJECTORY, "steps": 10_000, "truncated": True, "values": {"max_start": {10: 5}, "image_lr": {10: 1000}}},
    ),
    "datm": (
        "Guo et al., ICLR 2024, configurations of NUS-HPC-AI-Lab/DATM",
        {
            **TRAJECTORY,
            "steps": 10_000,
            "expert_epochs": 100,
            "sharpness": 0.01,
            "values": {
                "student_steps": {10: 80, 500: 80, 5000: 40, 10_000: 100},
                "max_start": {10: 4, 100: 20, 500: 40, 5000: 60},
                "label_lr": {10: 5, 100: 2, 500: 2, 5000: 10},
                "image_lr": {10: 100, 100: 100, 500: 1000, 5000: 50},
            },
        },
    ),
    "haba": (
        "Liu et al., NeurIPS 2022, scripts of Huage001/DatasetFactorization",
        {
            "steps": 15_000,
            "image_momentum": 0.95,
            "hallucinators": 5,
            "similarity": 0.1,
            "rival_lr": 0.001,
            "values": {"max_start": {10: 2, 100: 20, 500: 20}, "image_lr": {10: 100}},
        },
    ),
    "kfs": ("Lee et al., 2022: the loop of DM", {"steps": 20_000, "real_batch": 256}),
    "fred": (
        "Shin et al., NeurIPS 2023, scripts of the authors' code",
        {
            "steps": 15_000,
            "image_momentum": 0.5,
            "expert_span": 2,
            "start": "real",
            "mask": "class",
            "values": {
                "student_steps": {10: 50, 100: 40, 500: 30},
                "max_start": {10: 5, 100: 15, 500: 40},
                "rate_lr": {10: 1e-7, 100: 1e-5, 500: 1e-5},
            },
        },
    ),
    "fred-dm": ("Shin et al., NeurIPS 2023: the loop of DM", {"image_momentum": 0.5, "start": "real", "mask": "class"}),
    "it-gan": (
        "Zhao and Bilen, 2022",
        {"generator_dim": 128, "inversion_lr": 0.1, "image_lr": 0.001, "real_batch": 256},
    ),
    "glad": ("Cazenavette et al., CVPR 2023", {"steps": 1000}),
    "ld": (
        "Bohdal et al., 2020, and ondrejbohdal/label-distillation",
        {"label_lr": 0.001, "scale_lr": 0.01, "inner_lr": 0.01, "student_lr": 0.001, "real_batch": 1024},
    ),
    "gtn": (
        "Such et al., ICML 2020, configuration for MNIST",
        {"steps": 2000, "image_lr": 0.02, "student_lr": 0.02, "student_momentum": 0.5, "generator_dim": 128},
    ),
    "kip": (
        "Nguyen et al., ICLR 2021, the authors' notebook",
        {"real_batch": 5000, "image_lr": 0.04, "ridge": 1e-6, "learn_labels": False, "start": "real"},
    ),
    "frepo": ("Zhou et al., NeurIPS 2022, and yongchaoz/FRePo", {"ridge": 1e-6, "learn_labels": True, "start": "real"}),
    "rfad": ("Loo et al., NeurIPS 2022, and yolky/RFAD", {"ridge": 0.005, "scale_lr": 0.01, "start": "real"}),
    "rcig": (
        "Loo et al., ICML 2023, and yolky/RCIG",
        {"ridge": 0.0005, "image_lr": 0.003, "student_lr": 5e-5, "most_steps": 15, "scale_lr": 0.03},
    ),
    "krr": ("Chen et al., NeurIPS 2024: one image of each class is enough", {"ipc": 1}),
    "dd": (
        "Wang et al., 2018, and SsnL/dataset-distillation",
        {"image_lr": 0.01, "real_batch": 1024, "passes": 3, "start": "noise"},
    ),
    "sldd": ("Sucholutsky and Schonlau, IJCNN 2021: the settings of DD", {"image_lr": 0.01, "passes": 3}),
    "rtp": (
        "Deng and Russakovsky, NeurIPS 2022, and princetonvisualai/RememberThePast",
        {
            "image_lr": 0.1,
            "image_momentum": 0.5,
            "student_lr": 0.01,
            "student_momentum": 0.9,
            "student_steps": 150,
            "bases": 16,
            "factor": 2,
            "real_batch": 64,
            "student_batch": 32,
        },
    ),
    "rat-bptt": (
        "Feng et al., ICLR 2024, README of fengyzpku/Simple_Dataset_Distillation",
        {
            "window": 60,
            "student_steps": 200,
            "student_lr": 0.001,
            "image_lr": 0.001,
            "real_batch": 5000,
            "student_batch": 10,
            "clip_ratio": 2.0,
        },
    ),
}

# What the optimizer of the set gets from the plan, with ten images of each of ten classes.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "dc": DC_OPTIMIZER,
    "dsa": DC_OPTIMIZER,
    "dcc": DC_OPTIMIZER,
    "dm": {"kind": "SGD", "lr": 1.0, "momentum": 0.5},
    "datadam": {"kind": "SGD", "lr": 1.0, "momentum": 0.5},
    "cafe": {"kind": "SGD", "lr": 0.1, "momentum": 0.5},
    "idm": {"kind": "SGD", "lr": 0.2, "momentum": 0.5},
    "dd": {"kind": "Adam", "lr": 0.01, "betas": (0.5, 0.999)},
    "rat-bptt": {"kind": "Adam", "lr": 0.001, "betas": (0.9, 0.999)},
    "gtn": {"kind": "Adam", "lr": 0.02, "betas": (0.9, 0.999)},
    "kip": {"kind": "Adam", "lr": 0.04, "betas": (0.9, 0.999)},
}

# The common protocol: SGD 0.01, momentum 0.9, weight decay 5e-4, batches of 256, x0.1 at half of 300 epochs.
COMMON = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256, "decay": 0.1, "decay_at": (0.5,)}
PLAIN = {**COMMON, "epochs": 300, "augmentation": ""}
AUGMENTED = {**COMMON, "epochs": 1000, "augmentation": "color_crop_cutout_flip_scale_rotate"}
IDC_PROTOCOL = {"epochs": 1000, "batch_size": 64, "decay": 0.2, "decay_at": (2 / 3, 5 / 6), "mix": 0.5}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "dc": PLAIN,
    "cafe": PLAIN,
    **dict.fromkeys(
        ("dsa", "dcc", "dm", "datadam", "m3d", "ncfm", "idm", "mtt", "ftd", "tesla", "haba", "fred", "fred-dm"),
        AUGMENTED,
    ),
    **dict.fromkeys(("idc", "dream", "acc-dd"), IDC_PROTOCOL),
    "frepo": {"networks": 5, "epochs": 2000, "lr": 3e-4, "optimizer": "adam", "loss": "mse", "schedule": "cosine"},
    "dd": {"epochs": 3, "lr": 0.001, "order": "stored", "momentum": 0.0, "network": "alexnet-cifar"},
    "rtp": {"epochs": 300, "batch_size": 640, "lr": 0.01, "momentum": 0.9, "decay_at": ()},
    "rat-bptt": {"optimizer": "adam", "lr": 0.001},
}


@pytest.fixture(scope="module")
def cifar() -> dd.RealData:
    """Data of the shape of CIFAR-10."""
    images = torch.rand(200, 3, 32, 32, generator=dd.generator("images"))
    names = tuple(f"class {i}" for i in range(10))
    plain = dd.Preprocess.normalise([0.5] * 3, [0.25] * 3)
    data = {"class_names": names, "preprocess": plain, "name": "like CIFAR-10", "mirror_safe": True}
    return dd.RealData(images, torch.arange(200) % 10, **data)


def test_every_recipe_has_its_row():
    assert set(PUBLISHED) == set(RECIPES)
    assert all(source and values for source, values in PUBLISHED.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_are_those_that_were_published(name):
    _, values = PUBLISHED[name]
    recipe = RECIPES[name]()
    for parameter, value in values.items():
        found = getattr(recipe, parameter)
        if isinstance(value, dict):
            assert {key: {n: found[key][n] for n in points} for key, points in value.items()} == value
        else:
            assert (parameter, found) == (parameter, value)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_has_the_published_settings(name, cifar):
    kind = RECIPES[name]
    free = {f.name for f in dataclasses.fields(kind)} - {"image_lr", "image_momentum", "passes"}
    recipe = kind(**{k: v for k, v in RECIPE_SETTINGS[name].items() if k in free})
    make = dd.network_factory("convnet", cifar.image_shape, cifar.num_classes, width=4, depth=1)
    plan = recipe.plan(cifar, make_student=make, rng=dd.generator(0))
    optimizer = plan.make_optimizer(plan.syn)
    found = SimpleNamespace(kind=type(optimizer).__name__, **optimizer.param_groups[0])
    assert {key: getattr(found, key) for key in OPTIMIZERS[name]} == OPTIMIZERS[name]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_protocol_has_the_published_settings(name, cifar):
    found = RECIPES[name](ipc=10).protocol(cifar)
    assert {key: getattr(found, key) for key in PROTOCOLS[name]} == PROTOCOLS[name]
