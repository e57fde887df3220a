"""Avalanche storage policy that distils each experience and discards the real data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, final

from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.storage_policy import BalancedExemplarsBuffer, ExemplarsBuffer

import ddsdk as dd
from ddsdk.artefact import LABEL_BYTES, Codec, Uint8, codec_state
from ddsdk.foundation import ResumeError, require, require_count
from ddsdk_integrations.continual.distiller import DistilledImages, Distiller
from ddsdk_integrations.continual.memory import Key, Memory, MemoryPart, sample_bytes
from ddsdk_integrations.continual.stream import (
    MemoryImages,
    NewSamples,
    Queue,
    ReplayOptions,
    Schema,
    Streaming,
    as_avalanche,
    new_samples,
    value_space,
)
from ddsdk_integrations.continual.task_batch import TaskBatch, remembered, split_by_task, warm_start_of


class _Group(ExemplarsBuffer):
    """Buffer of one class, in the form that Avalanche looks up by class."""

    def resize(self, strategy: Any, new_size: int) -> None:  # noqa: ANN401
        """Do nothing: `DistilledBuffer.resize` resizes all classes together."""


@final
class DistilledBuffer(BalancedExemplarsBuffer[_Group]):
    """Replay memory of distilled images, for ``ReplayPlugin(storage_policy=...)`` of Avalanche.

    At the end of each experience, or on the schedule of an online stream, the new images are distilled to as many
    synthetic images as the storage budget allows; no real image is kept. Like Avalanche's class-balanced buffers, the
    memory has one group per class.

    While it runs, a ValueError is raised if the share of a class is smaller than one image, or if values of the stream
    leave the unit range.

    Args:
        max_size: Number of real images whose storage is the budget: one byte per channel and pixel plus two bytes for
            the class id. It must equal ``mem_size`` of the plugin. The number of stored items differs: tiles or
            low-rank factors give more images for the same bytes, soft labels fewer.
        recipe: Recipe or baseline of ddsdk, whose `ipc` is replaced by the number of items that the budget allows; or
            a `Distiller` with the student networks and the time budget of each distillation.
        budget_bytes: Storage budget in bytes; None for the storage of `max_size` real images.
        classes: Final number of classes over all tasks, where equal class ids of two tasks count twice. None divides
            the budget by the number of classes so far, so that older classes shrink as new ones arrive.
        visits: Final number of experiences that contain a class. None divides the budget of a class by its number of
            experiences so far. Ignored with `merge`.
        codec: Codec of the images, such as `LowRank`; None for uint8. Recipes of tiles or components have codecs of
            their own.
        merge: Whether a recurring class is distilled from its new and its remembered images together, weighted by
            visits, with the remembered ones as warm start. Otherwise the budget of the class is divided among its
            visits, and older ones shrink.
        replay: Repetition, augmentation and label form of the replayed images; None for each image once.
        streaming: Schedule of distillations in a stream of small pieces; None distils each experience at its end.
        preprocess: Map from the unit range to the values of the stream; None takes the extremes of each channel in the
            first experience as black and white.
        pictures: Whether images are pictures; False for other matrices, see `ddsdk.RealData`.
        mirror_safe: Whether a mirrored image keeps its class, see `ddsdk.RealData`. By default, recipes mirror images
            only if it does.
        seed: Seed from which all random numbers derive.

    Attributes:
        calls: Number of distillations so far.
        seconds: Total duration of the distillations in seconds.

    Examples:
        >>> import ddsdk
        >>> from avalanche.training.plugins import ReplayPlugin
        >>> from ddsdk_integrations.continual import DistilledBuffer, Distiller
        >>> distiller = Distiller(ddsdk.DM(steps=1, real_batch=16), network_options={"width": 4}, seconds=60)
        >>> memory = DistilledBuffer(100, distiller, classes=10)
        >>> plugin = ReplayPlugin(mem_size=100, storage_policy=memory)
        >>> memory.nbytes, memory.calls
        (0, 0)
    """

    def __init__(
        self,
        max_size: int,
        recipe: dd.Recipe | Distiller,
        *,
        budget_bytes: int | None = None,
        classes: int | None = None,
        visits: int | None = None,
        codec: Codec | None = None,
        merge: bool = False,
        replay: ReplayOptions | None = None,
        streaming: Streaming | None = None,
        preprocess: dd.Preprocess | None = None,
        pictures: bool = True,
        mirror_safe: bool = False,
        seed: int = 0,
    ) -> None:
        counts = {"max_size": max_size, "budget_bytes": budget_bytes, "classes": classes, "visits": visits}
        for name, value in counts.items():
            if value is not None:
                require_count(name, value)
        super().__init__(max_size)
        self.distiller = recipe if isinstance(recipe, Distiller) else Distiller(recipe)
        self.calls = 0
        self.seconds = 0.0
        self.codec: Codec = Uint8() if codec is None or self.distiller.stores_no_images else codec
        self.replay = replay or ReplayOptions()
        self._budget_bytes, self._classes, self._visits = budget_bytes, classes, visits
        self._merge, self._streaming, self._seed = merge, streaming, seed
        self._preprocess, self._pictures, self._mirror_safe = preprocess, pictures, mirror_safe
        self._queue = self._new_queue()
        self._memory: Memory | None = None
        self._schema: Schema | None = None
        self._shape: tuple[int, int, int] | None = None
        self._updates = 0
        self._replayed: AvalancheDataset[Any] = AvalancheDataset([])

    @property
    def parts(self) -> tuple[MemoryPart, ...]:
        """Stored images, one part for each class and visit."""
        return () if self._memory is None else tuple(self._memory.parts)

    @property
    def nbytes(self) -> int:
        """Storage of images and labels in bytes."""
        return 0 if self._memory is None else self._memory.nbytes

    @property
    def waiting(self) -> int:
        """Number of real images in the queue of a stream; no other real images are kept."""
        return len(self._queue)

    @property
    def buffer(self) -> AvalancheDataset[Any]:
        """Replayed images as an Avalanche data set like those of the stream; empty before the first distillation."""
        return self._replayed

    def newest(self) -> AvalancheDataset[Any]:
        """Return the images of the last distillation as a data set like `buffer`."""
        last = max((part.visit for part in self.parts), default=0)
        return self._dataset([part for part in self.parts if part.visit == last], self.replay)

    def update(self, strategy: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Distil the current experience of a strategy; the inherited method would log a deprecation warning."""
        self.post_adapt(strategy, strategy.experience)

    def post_adapt(self, agent: Any, exp: Any) -> None:  # noqa: ANN401, ARG002
        """Distil the images of an experience, or add them to the queue of a stream.

        Args:
            agent: Ignored argument of Avalanche's interface.
            exp: Avalanche experience with its data set.
        """
        dataset = exp.dataset
        if len(dataset) == 0:
            return
        if self._schema is None:
            self._schema = Schema.of(dataset)
        if self._preprocess is None:
            self._preprocess = value_space(dataset)
        samples = new_samples(dataset, self._preprocess)
        c, h, w = samples.images.shape[1:]
        self._shape = (c, h, w)
        if self._streaming is None:
            self._remember(samples)
            return
        if getattr(exp, "is_first_subexp", False):
            self.flush()
        self._queue.add(samples)
        if self._queue.pieces >= self._streaming.every:
            self.flush()

    def flush(self) -> None:
        """Distil the queued images, for example at the end of a stream; after an error they stay in the queue."""
        queue_state = self._queue.to_state()
        samples = self._queue.empty()
        try:
            if samples is not None:
                self._remember(samples)
        except BaseException:
            self._queue.load(queue_state)
            raise

    def resize(self, strategy: Any, new_size: int) -> None:  # noqa: ANN401, ARG002
        """Set the budget to the storage of `new_size` real images.

        Herding over pixels selects the images that stay, so that class means are preserved. An explicit `budget_bytes`
        is not changed.

        Args:
            strategy: Ignored argument of Avalanche's interface.
            new_size: Number of real images, at least 1.
        """
        require_count("new_size", new_size)
        if self._memory is not None and self._shape is not None and self._budget_bytes is None:
            self._memory.fit(new_size * sample_bytes(self._shape))
            self._refresh()
        self.max_size = new_size

    def to_state(self) -> dict[str, Any]:
        """Return the state on which the next distillation depends, as tensors and plain values."""
        return {
            "settings": self._settings(),
            "max_size": self.max_size,
            "calls": self.calls,
            "seconds": self.seconds,
            "updates": self._updates,
            "schema": None if self._schema is None else dataclasses.asdict(self._schema),
            "shape": self._shape,
            "preprocess": None if self._preprocess is None else self._preprocess.to_state(),
            "parts": [] if self._memory is None else self._memory.to_state(),
            "queue": self._queue.to_state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state of `to_state`; the run then continues bit-identically.

        Raises:
            ResumeError: If the state belongs to a buffer with other settings; the message lists them.
        """
        settings, saved_settings = self._settings(), state["settings"]
        differing = [name for name in settings if settings[name] != saved_settings.get(name)]
        if differing:
            changes = ", ".join(
                f"{name} was {saved_settings.get(name)!r} and is {settings[name]!r}" for name in differing
            )
            raise ResumeError(f"the buffer was made with other settings: {changes}")
        shape, max_size = state["shape"], state["max_size"]
        queue, memory = self._new_queue(), None
        queue.load(state["queue"])
        if state["parts"]:
            memory = self._new_memory(shape, max_size)
            memory.load(state["parts"])
        schema = None if state["schema"] is None else Schema(**state["schema"])
        if state["preprocess"] is not None:
            self._preprocess = dd.Preprocess.from_state(*state["preprocess"])
        self.calls, self.seconds, self._updates = state["calls"], state["seconds"], state["updates"]
        self.max_size, self._shape, self._schema = max_size, shape, schema
        self._queue, self._memory = queue, memory
        self._refresh()

    def _settings(self) -> dict[str, str]:
        # The attribute names are keys of saved states.
        names = (
            *("distiller", "replay", "_budget_bytes", "_classes", "_visits", "_merge"),
            *("_streaming", "_pictures", "_mirror_safe", "_seed"),
        )
        settings = {name.lstrip("_"): repr(getattr(self, name)) for name in names}
        return {**settings, "codec": repr(codec_state(self.codec))}

    def _new_queue(self) -> Queue:
        return Queue(1 if self._streaming is None else self._streaming.room, self._seed)

    def _new_memory(self, shape: tuple[int, int, int], max_size: int) -> Memory:
        budget = self._budget_bytes or max_size * sample_bytes(shape)
        return Memory(budget, self._classes, None if self._merge else self._visits)

    def _remember(self, samples: NewSamples) -> None:
        """Distil new images task by task; after an error the memory is unchanged."""
        batches = split_by_task(samples)
        keys = [key for batch in batches for key in batch.keys]
        width = self.replay.soft
        if width is not None:
            largest = max(label for _, label in keys)
            require(largest < width, "soft", f"exceed the largest class id, {largest}", width)
        memory = self._memory or self._new_memory(batches[0].shape, self.max_size)
        parts: list[MemoryPart] = []
        for number, batch in enumerate(batches, self._updates + 1):
            parts += self._distilled(memory, batch, keys, number)
        memory.put(parts, replace=self._merge)
        self._memory = memory
        self._updates += len(batches)
        self._refresh()

    def _distilled(self, memory: Memory, batch: TaskBatch, coming: list[Key], number: int) -> list[MemoryPart]:
        """Return the parts of distillation `number`; `coming` are the keys that the memory will get."""
        assert self._preprocess is not None
        rng = dd.generator("continual", self._seed, number)
        # A single class cannot be distilled by itself: recipes need at least two classes.
        single_class = len(batch.keys) == 1
        past = batch.past(memory.parts) if self.distiller.past or single_class else {}
        start_parts = {len(batch.keys) + c: part for c, part in remembered(list(past), memory.parts).items()}
        visits = 1
        if self._merge:
            start_parts |= remembered(batch.keys, memory.parts)
            batch = batch.with_old(memory.parts)
        else:
            visits += max(len(memory.of(key)) for key in batch.keys)
        label_bytes = LABEL_BYTES if self.replay.soft is None else 2 * len(batch.keys)
        share = memory.share(coming, visits)
        ipc = self.distiller.items_within(share, batch.shape, self.codec, label_bytes)
        facts = {"pictures": self._pictures, "mirror_safe": self._mirror_safe}
        real = batch.real(self._preprocess, past, rng, **facts)
        start = warm_start_of(start_parts, self._preprocess, real.num_classes)
        distilled = self.distiller(real, ipc, rng=rng, new=len(batch.keys), start=start)
        self.calls += 1
        self.seconds += distilled.seconds
        return self._parts(batch, distilled, number)

    def _parts(self, batch: TaskBatch, distilled: DistilledImages, number: int) -> list[MemoryPart]:
        # Columns of remembered classes are dropped, so rows are normalised again below.
        labels = distilled.labels[:, : len(batch.keys)]
        soft = self.replay.soft is not None and bool(((labels != 0) & (labels != 1)).any())
        parts = []
        for c, key in enumerate(batch.keys):
            members = distilled.classes == c
            codec, packed = distilled.stored.get(c) or (self.codec, self.codec.pack(distilled.images[members]))
            rows = labels[members] / labels[members].sum(1, keepdim=True).clamp_min(1e-12)
            parts.append(
                MemoryPart(
                    key=key,
                    visit=number,
                    codec=codec,
                    packed=packed,
                    shape=batch.shape,
                    soft=rows.half() if soft else None,
                    classes=tuple(label for _, label in batch.keys) if soft else (),
                )
            )
        return parts

    def _refresh(self) -> None:
        """Rebuild the data sets of all images and of each class from the memory."""
        labels = list(dict.fromkeys(part.key[1] for part in self.parts))
        per_class = dataclasses.replace(self.replay, fill=-(-self.replay.fill // max(1, len(labels))))
        self.buffer_groups = {label: self._group(label, per_class) for label in labels}
        self._replayed = self._dataset(list(self.parts), self.replay)

    def _group(self, label: int, replay: ReplayOptions) -> _Group:
        group = _Group(self.max_size)
        group.buffer = self._dataset([part for part in self.parts if part.key[1] == label], replay)
        return group

    def _dataset(self, parts: list[MemoryPart], replay: ReplayOptions) -> AvalancheDataset[Any]:
        if not parts or self._schema is None or self._preprocess is None:
            return AvalancheDataset([])
        return as_avalanche(MemoryImages(parts, self._preprocess, self._schema, replay, self._seed), self._schema)
