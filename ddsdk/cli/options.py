"""Options that several commands share: data, device and networks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddsdk import data, judging, networks
from ddsdk.cli.console import out
from ddsdk.foundation import note, require

if TYPE_CHECKING:
    from ddsdk.data import LoadOptions, RealData, Resize
    from ddsdk.networks import Backbone, NetworkFactory, NetworkSpec


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options of the data set and the device.

    Attributes:
        data: Data set: name (digits, fashion-mnist, cifar10 ...), image folder, parquet, npz or npy file or a folder
            of them, or CSV file of texts.
        root: Folder of the named data sets; missing ones are downloaded to it. None: ~/.cache/ddsdk.
        zca: Whether images are whitened (ZCA) instead of normalised per channel.
        image_column: Image column of a parquet file. None: a column with a usual name, or the only one of this type.
        label_column: Label column of a table. None: a column with a usual name, or the only one of this type.
        text_column: Text column of a table, which is read in the place of images. None: images are read.
        configuration: Configuration of a data set from the Hugging Face hub: the folder above its splits.
        channels: Position of the channel axis in npz and npy files, first or last. None: found by the sizes.
        classes: Chosen classes in their order, such as cat,dog. Groups: "cats=persian,siamese;dogs=beagle". None: all.
        resize: Size in pixels of the images of a folder or parquet file: 32, 32x48 (height x width) or 32 48. Default:
            no resizing, so that all must have one size.
        fit: Treatment of other proportions with --resize. stretch: they change. crop: the centre is taken. pad: black
            borders are added.
        skip_unreadable: Whether damaged images are left out and listed, instead of refused.
        on_disk: Whether images are decoded into the cache folder and read batch by batch, for data larger than memory.
            They are without the option if they would take more than half of the memory.
        workers: Number of processes that decode images to disk.
        mirror_safe: Whether a horizontally flipped image keeps its class, so that augmentation may flip images. auto:
            yes for fashion-mnist, cifar10, cifar100 and stl10, no for all other data. check: decided by the accuracy of
            a small network on flipped held-out images.
        device: Torch device of all computations: cpu, cuda, cuda:1 ...
        threads: Number of CPU threads. None: torch's default. Results are reproducible only with an equal number.
    """

    data: str
    root: str | None = None
    zca: bool = False
    image_column: str | None = None
    label_column: str | None = None
    text_column: str | None = None
    configuration: str | None = None
    channels: Literal["first", "last"] | None = None
    classes: str | None = None
    resize: tuple[str, ...] = ()
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    skip_unreadable: bool = False
    on_disk: bool = False
    workers: int = 1
    mirror_safe: Literal["auto", "yes", "no", "check"] = "auto"
    device: str = "cpu"
    threads: int | None = None

    def train(self) -> RealData:
        """Return the train split on the device."""
        self._prepare()
        train = data.load(self.data, **self._load_options()).to(self.device)
        return train.with_mirror_safe(self._mirror_safe(train))

    def pair(self, test: str | None = None, stored: LoadOptions | None = None) -> tuple[RealData, RealData]:
        """Return the train and test splits on the device.

        Args:
            test: Test data if `data` has no test split. None for the test split of `data`.
            stored: Geometry and classes of a distilled set, for options that are not given. None for no set.
        """
        self._prepare()
        options = self._load_options()
        missing = {name: value for name, value in (stored or {}).items() if options[name] is None}
        if missing:
            note(f"the data are read as those of the set: {', '.join(f'{name} {v}' for name, v in missing.items())}")
        splits = data.load_pair(self.data, test, **options | missing)
        train, held_out = (split.to(self.device) for split in splits)
        safe = self._mirror_safe(train)
        return train.with_mirror_safe(safe), held_out.with_mirror_safe(safe)

    def _mirror_safe(self, train: RealData) -> bool:
        """Return whether augmentation may flip images, and print the measurement or the assumption behind it."""
        if self.mirror_safe == "check":
            check = judging.mirror_check(train)
            accuracies = f"accuracy {check.plain:.1%} on {check.images} held-out images, {check.mirrored:.1%} flipped"
            out(f"mirror check: {accuracies}; augmentation {'may' if check.safe else 'must not'} flip images")
            return check.safe
        if self.mirror_safe == "auto" and train.pictures and Path(self.data).exists():
            out("augmentation flips no images of unknown data, as a flip may change the class; see --mirror-safe")
        return train.mirror_safe

    def _prepare(self) -> None:
        import torch

        check_device(self.device)
        if self.threads is not None:
            require(self.threads >= 1, "threads", "be at least 1", self.threads)
            torch.set_num_threads(self.threads)

    def _load_options(self) -> dict[str, Any]:
        shared = (
            *("root", "zca", "image_column", "label_column", "text_column", "configuration"),
            *("channels", "classes", "skip_unreadable", "workers"),
        )
        mirror_safe = {"mirror_safe": self.mirror_safe == "yes"} if self.mirror_safe in ("yes", "no") else {}
        options = {name: getattr(self, name) for name in shared} | {"resize": self._resize()} | mirror_safe
        return options | {"on_disk": self.on_disk or None}

    def _resize(self) -> Resize | None:
        if not self.resize:
            require(self.fit == "stretch", "fit", "come with --resize", self.fit)
            return None
        sides = "x".join(self.resize).lower().split("x")
        valid = len(sides) in (1, 2) and all(side.isdecimal() for side in sides)
        require(valid, "resize", "be 32, 32x48 (height x width) or 32 48", " ".join(self.resize))
        return data.Resize(int(sides[0]), int(sides[-1]), self.fit)


def names(text: str, option: str = "", known: Collection[str] = ()) -> list[str]:
    """Return the names of a comma-separated list.

    Args:
        text: Names, separated by commas.
        option: Name of the option for the error message; empty for no check.
        known: Valid names. Another name is an error if `option` is given.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts if option else ():
        require(part in known, option, f"be among {', '.join(known)}", part)
    return parts


def whole_numbers(name: str, text: str) -> list[int]:
    """Return the whole numbers of a comma-separated list; each must be at least 1."""
    parts = names(text)
    require(len(parts) > 0, name, "hold at least one number", text)
    for part in parts:
        valid = part.isdecimal() and int(part) >= 1
        require(valid, name, "be whole numbers of at least 1, separated by commas", part)
    return [int(part) for part in parts]


def check_device(name: str) -> None:
    """Check that torch can create a tensor on a device. Otherwise this is a ValueError."""
    import torch

    try:
        usable = torch.zeros(1, device=name).tolist() == [0.0]
    # The type of the error depends on the backend: CUDA, XPU, MPS and others differ in builds without them.
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        usable = False
    require(usable, "device", "be cpu, or an accelerator that torch finds on this machine", name)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Architecture options of the networks.

    Attributes:
        width: Width of the networks, such as channels per layer of a ConvNet. None: the network's default.
        depth: Depth of the networks, such as blocks of a ConvNet. None: the network's default.
        norm: Normalisation layers: instance, batch, layer, group or none. None: the network's default.
    """

    width: int | None = None
    depth: int | None = None
    norm: str | None = None

    def network_options(self) -> dict[str, Any]:
        """Return the architecture options that are not None, by name."""
        options = {"width": self.width, "depth": self.depth, "norm": self.norm}
        return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """Options of a frozen pretrained backbone.

    Attributes:
        backbone: Frozen pretrained backbone: torchvision:NAME or timm:NAME with the pretrained weights,
            FILE.safetensors@torchvision:NAME, or package.module:NAME of a function that returns a module, which is
            imported. Default: no backbone.
        backbone_side: Input resolution of the backbone in pixels. None: that of its weights, or of the images.
        backbone_mean: Mean of each channel in the range 0..1 of the backbone's own normalisation, such as 0.5,0.5,0.5.
            Default: that of its weights.
        backbone_std: Standard deviation of each channel in the range 0..1, such as 0.25,0.25,0.25. Default: that of its
            weights.
    """

    backbone: str = ""
    backbone_side: int | None = None
    backbone_mean: str = ""
    backbone_std: str = ""

    def load_backbone(self) -> Backbone | None:
        """Return the backbone; None without one."""
        if not self.backbone:
            own = (self.backbone_side, self.backbone_mean, self.backbone_std)
            require(not any(own), "backbone_side, backbone_mean and backbone_std", "come with --backbone", own)
            return None
        mean, std = (_real_numbers(name, getattr(self, name)) for name in ("backbone_mean", "backbone_std"))
        return networks.load_backbone(self.backbone, side=self.backbone_side, mean=mean, std=std)


def _real_numbers(name: str, text: str) -> list[float] | None:
    try:
        return [float(part) for part in names(text)] or None
    except ValueError:
        raise ValueError(f"{name} must be numbers separated by commas, got {text!r}") from None


def chosen_networks(option: str, text: str, imports: bool = True) -> dict[str, NetworkSpec]:
    """Return the networks of a comma-separated list, by their names.

    Args:
        option: Name of the option for the error message.
        text: Names of the catalogue, "torchvision:NAME", "timm:NAME", or "package.module:NAME" of a class, function or
            module, separated by commas.
        imports: Whether "package.module:NAME" is allowed; its module is imported.
    """
    specs: dict[str, NetworkSpec] = {}
    for name in names(text):
        named = ":" not in name or networks.is_library_name(name) or not imports
        if named and not networks.is_library_name(name):
            require(name in networks.NETWORKS, option, f"be among {', '.join(networks.NETWORKS)}", name)
        specs[name] = name if named else networks.imported_network(name)
    return specs


def student_factory(name: str, real: RealData, options: dict[str, Any]) -> NetworkFactory:
    """Return the factory of the network that the command line names, with this name.

    Args:
        name: Name of the network, see `chosen_networks`.
        real: Real data, whose image shape and classes the network gets.
        options: Options of the network by name.
    """
    library = networks.is_library_name(name)
    for option in options if library else ():
        # Some builders accept any option and ignore it.
        require(False, option, f"be left out for {name}", options[option])
    spec = networks.imported_network(name) if ":" in name and not library else name
    return replace(networks.network_factory(spec, real.image_shape, real.num_classes, **options), name=name)


def fitting_options(
    network: str, chosen: Mapping[str, NetworkSpec] | Sequence[str], given: dict[str, Any]
) -> dict[str, Any]:
    """Return the part of the options that the builder of a network accepts.

    An option that no network accepts is an error.

    Args:
        network: Name of the network.
        chosen: Names of all networks that the command line names, with what `chosen_networks` found for them.
        given: Options by name, such as ``{"width": 64}``.
    """
    specs: dict[str, Any] = {network: network, **(chosen if isinstance(chosen, Mapping) else {n: n for n in chosen})}
    accepted = {name: networks.network_parameters(spec) for name, spec in specs.items()}
    for option in given:
        known = any(option in parameters for parameters in accepted.values())
        require(known, option, f"be left out for {', '.join(sorted(accepted))}", given[option])
    return {option: value for option, value in given.items() if option in accepted[network]}
