"""Options that several verbs share: data, network, device."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddsdk import data, judging, networks
from ddsdk.cli.console import out
from ddsdk.foundation import require

if TYPE_CHECKING:
    from ddsdk.data import RealData


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Data and device.

    Attributes:
        data: Name (digits, fashion-mnist, cifar10 ...), image folder, or parquet file.
        root: Folder of named data sets, which are downloaded if they are not there.
        zca: Whiten (ZCA) instead of normalising.
        image_column: Column of a parquet file that holds the images; found by its type if not given.
        label_column: Column of a parquet file that holds the labels.
        resize: Height and width to resample pictures to, for folders and parquet.
        mirror_safe: Whether the mirror image of an image has the same class, so that recipes may mirror it. auto: yes
            for fashion-mnist, cifar10, cifar100 and stl10, no for all other data. check: train a small network and take
            the measured answer.
        device: cpu, cuda, cuda:1 ... Everything runs where the data is.
        threads: CPU threads; None leaves it to torch. It is part of what makes a run repeatable.
    """

    data: str
    root: str | None = None
    zca: bool = False
    image_column: str | None = None
    label_column: str | None = None
    resize: tuple[int, int] | None = None
    mirror_safe: Literal["auto", "yes", "no", "check"] = "auto"
    device: str = "cpu"
    threads: int | None = None

    def train(self) -> RealData:
        """Load the train split onto the device."""
        self._prepare()
        train = data.load(self.data, **self._where()).to(self.device)
        return train.with_mirror_safe(self._mirror_safe(train))

    def pair(self, test: str | None = None) -> tuple[RealData, RealData]:
        """Load the train and test splits onto the device; `test` names the test data if `data` has none."""
        self._prepare()
        train, held_out = (part.to(self.device) for part in data.load_pair(self.data, test, **self._where()))
        safe = self._mirror_safe(train)
        return train.with_mirror_safe(safe), held_out.with_mirror_safe(safe)

    def _mirror_safe(self, train: RealData) -> bool:
        """Return whether images may be mirrored, and say what was assumed or measured."""
        if self.mirror_safe == "check":
            found = judging.mirror_check(train)
            plain = f"{found.plain:.1%} of {found.images} held-out images"
            may = "may" if found.safe else "must not"
            out(f"mirror check: {plain}, {found.mirrored:.1%} of their mirror images: images {may} be mirrored")
            return found.safe
        if self.mirror_safe == "auto" and Path(self.data).exists():
            out("images are not mirrored, for nothing is known of these data: --mirror-safe yes, no or check")
        return train.mirror_safe

    def _prepare(self) -> None:
        import torch

        check_device(self.device)
        if self.threads is not None:
            require(self.threads >= 1, "threads", "be at least 1", self.threads)
            torch.set_num_threads(self.threads)

    def _where(self) -> dict[str, Any]:
        names = ("root", "zca", "image_column", "label_column", "resize")
        safe = {"mirror_safe": self.mirror_safe == "yes"} if self.mirror_safe in ("yes", "no") else {}
        return {name: getattr(self, name) for name in names} | safe


def names(text: str, option: str = "", known: Collection[str] = ()) -> list[str]:
    """Split a comma-separated list; with an option, refuse what is not among its known names."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    for part in found if option else ():
        require(part in known, option, f"be among {', '.join(known)}", part)
    return found


def whole_numbers(name: str, text: str) -> list[int]:
    """Split a comma-separated list of numbers that are at least 1."""
    found = names(text)
    require(len(found) > 0, name, "hold at least one number", text)
    for part in found:
        ok = part.isdecimal() and int(part) >= 1
        require(ok, name, "be whole numbers of at least 1, separated by commas", part)
    return [int(part) for part in found]


def check_device(name: str) -> None:
    """Raise ValueError unless torch can store something on a device."""
    import torch

    try:
        ok = torch.zeros(1, device=name).tolist() == [0.0]
    # Backends that torch was built without answer with errors of several kinds.
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        ok = False
    require(ok, "device", "be cpu, or an accelerator that torch finds here", name)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Options of the networks.

    Attributes:
        width: Width of the networks that have one; None takes the usual one.
        depth: Depth of the networks that have one; None takes the usual one.
        norm: Normalisation of the networks that let it be chosen: instance, batch, layer, group or none.
    """

    width: int | None = None
    depth: int | None = None
    norm: str | None = None

    def network_options(self) -> dict[str, Any]:
        """Return the options of a builder that were given."""
        given = {"width": self.width, "depth": self.depth, "norm": self.norm}
        return {name: value for name, value in given.items() if value is not None}


def fitting_options(network: str, chosen: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
    """Return the given options that a network takes; an option that none of the chosen networks takes is refused."""
    takes = {name: set(signature(networks.NETWORKS[name]).parameters) for name in {network, *chosen}}
    for option in given:
        known = any(option in taken for taken in takes.values())
        require(known, option, f"be left out for {', '.join(sorted(takes))}", given[option])
    return {option: value for option, value in given.items() if option in takes[network]}
