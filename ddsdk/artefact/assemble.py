"""Export of a synthetic set as an artefact, with its protocol and provenance."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
import torch

from ddsdk.artefact.certificate import Certificate
from ddsdk.artefact.distilled import Distilled
from ddsdk.data import Preprocess
from ddsdk.foundation import derive
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import TrainingProtocol


class DataDescription(Protocol):
    """Interface of the data facts that an artefact records, such as `ddsdk.RealData`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes."""
        ...

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing from the unit range to the value space."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the run."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """Public description of the data for the provenance, as JSON values."""
        ...


def assemble(
    recipe: Any,  # noqa: ANN401
    syn: SyntheticSet,
    real: DataDescription,
    *,
    protocol: TrainingProtocol,
    rng: torch.Generator,
    seconds: float,
    make_student: object = None,
    run: Mapping[str, Any] | None = None,
    certificate: Certificate | None = None,
) -> Distilled:
    """Export a synthetic set as an artefact.

    Args:
        recipe: Recipe or baseline dataclass; its `name` (or class name) and all its hyperparameters are recorded.
        syn: Synthetic set to export.
        real: Real data that was distilled; its description is recorded.
        protocol: Protocol of training networks on the set.
        rng: Root generator of the run; its seed is recorded. A stochastic decoder draws one sample with it.
        seconds: Wall-clock time of the run, in seconds.
        make_student: Factory of the student networks. A factory with a `name` (str) and `options` (a mapping of JSON
            values), such as `ddsdk.networks.NetworkFactory`, is recorded by these, another factory by the name of its
            function or class. None records no network.
        run: Further entries of the provenance, see `ddsdk.Distillation.record`. None for no entries.
        certificate: Certificate of a differentially private run. None for other runs.

    Returns:
        The artefact, on the CPU.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.artefact import assemble
        >>> real, recipe, rng = ddsdk.load("digits"), ddsdk.DM(ipc=1), ddsdk.generator(0)
        >>> plan = recipe.plan(real, make_student=recipe.student(real), rng=rng)
        >>> assemble(recipe, plan.syn, real, protocol=recipe.protocol(real), rng=rng, seconds=0.0)
        Distilled(recipe='dm', images=(10, 1, 8, 8), classes=10, ipc=1)
    """
    with torch.no_grad():
        images, owners = syn.parametrization.decode(torch.arange(len(syn)).to(syn.device), derive(rng, "export"))
        labels = syn.labels.rows(owners)
    return Distilled(
        images.cpu(),
        labels.float().cpu(),
        class_names=real.class_names,
        preprocess=real.preprocess.to("cpu"),
        protocol=protocol.to_dict(),
        classes=syn.classes[owners].cpu(),
        label_space=syn.labels.space,
        learned_lr=None if syn.rate is None else syn.rate.rates,
        learned_momentum=None if syn.rate is None else syn.rate.momenta,
        stored_floats=syn.parametrization.stored_floats(),
        provenance={
            "recipe": getattr(recipe, "name", type(recipe).__name__),
            "class": type(recipe).__name__,
            "parameters": dataclasses.asdict(recipe),
            "data": real.description,
            **({} if make_student is None else {"student": _student(make_student)}),
            "rng_seed": rng.initial_seed(),
            **(run or {}),
            "seconds": round(seconds, 3),
            "versions": {
                "ddsdk": version("ddsdk"),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "device": device_name(real.device),
            "threads": torch.get_num_threads(),
        },
        certificate=certificate,
    )


def _student(make_student: object) -> dict[str, Any]:
    name, options = (getattr(make_student, attribute, None) for attribute in ("name", "options"))
    if isinstance(name, str) and isinstance(options, Mapping):
        return {"network": name, "options": dict(options)}
    return {"network": getattr(make_student, "__qualname__", type(make_student).__name__)}


def device_name(device: torch.device | str) -> str:
    """Return the model name of a GPU, or the type of another device.

    Examples:
        >>> from ddsdk.artefact import device_name
        >>> device_name("cpu")
        'cpu'
    """
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
