"""`DistilledBuffer`: an Avalanche storage policy that distils each experience, and lets the real data go."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, final

from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.storage_policy import BalancedExemplarsBuffer, ExemplarsBuffer

import ddsdk as dd
from ddsdk.artefact import LABEL_BYTES, Codec, Uint8, codec_state
from ddsdk.foundation import ResumeError, require, require_count
from ddsdk_integrations.continual.distiller import Distiller, Made
from ddsdk_integrations.continual.memory import Key, Memory, Part, sample_bytes
from ddsdk_integrations.continual.moment import Moment, moments, remembered, start_of
from ddsdk_integrations.continual.stream import (
    Arrivals,
    Items,
    Queue,
    Replay,
    Schema,
    Streaming,
    arrivals,
    as_avalanche,
    value_space,
)


class _Group(ExemplarsBuffer):
    """The part of a buffer that Avalanche looks up by class."""

    def resize(self, strategy: Any, new_size: int) -> None:  # noqa: ANN401
        """Do nothing: the whole buffer is resized at once."""


@final
class DistilledBuffer(BalancedExemplarsBuffer[_Group]):
    """Replay memory of distilled images: a drop-in for ``ReplayPlugin(storage_policy=...)``.

    At the end of each experience, or while a stream runs, it distils the new images to as many as its bytes hold, and
    keeps nothing of the real data. It has one group for each class, as class-balanced buffers of Avalanche.

    Args:
        max_size: Number of real images whose bytes the memory may take: a byte for each channel of a pixel, and two for
            the class. It must be the plugin's ``mem_size``. It is no number of items: small tiles or low-rank
            factors give more images for the same bytes, soft labels fewer.
        recipe: Recipe of ddsdk, whose ipc follows from the bytes, or a `Distiller` with the students and the seconds of
            each distillation.
        budget_bytes: Bytes, in place of those of `max_size` real images.
        classes: Final number of classes, over all tasks that number them anew. None divides by those that came so far,
            so that older ones shrink as new ones come.
        visits: Final number of experiences with each class. None divides the bytes of a class by those so far. It has
            no effect with `merge`.
        codec: Codec of the images, such as `LowRank`; None for bytes. Recipes that store tiles or components keep
            theirs.
        merge: Whether the new images of a class that comes again are distilled together with those remembered, weighted
            by visits, from which the run goes on; otherwise its bytes are divided among the visits, and older ones
            shrink.
        replay: Form in which the memory is given to those who train on it; None for each item once.
        streaming: Times of distillation in a stream of small pieces. None distils each experience at its end.
        preprocess: Map from the unit range to the values of the stream. None takes the extremes of the first
            experience for black and white.
        pictures: False for matrices that are no pictures, see `ddsdk.RealData`.
        mirror_safe: Whether the mirror image of an image has the same class, see `ddsdk.RealData`. The recipe mirrors
            images by default only where it has.
        seed: Root of every random number.

    Raises:
        ValueError: While it runs, if a share of the bytes holds no image, or if values of the stream leave the unit
            range.

    Attributes:
        calls: Number of distillations so far.
        seconds: Time that they took.
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
        replay: Replay | None = None,
        streaming: Streaming | None = None,
        preprocess: dd.Preprocess | None = None,
        pictures: bool = True,
        mirror_safe: bool = False,
        seed: int = 0,
    ) -> None:
        given = {"max_size": max_size, "budget_bytes": budget_bytes, "classes": classes, "visits": visits}
        for name, value in given.items():
            if value is not None:
                require_count(name, value)
        super().__init__(max_size)
        self.distiller = recipe if isinstance(recipe, Distiller) else Distiller(recipe)
        self.calls = 0
        self.seconds = 0.0
        self.codec: Codec = Uint8() if codec is None or self.distiller.stores_no_images else codec
        self.replay = replay or Replay()
        self._budget_bytes, self._classes, self._visits = budget_bytes, classes, visits
        self._merge, self._streaming, self._seed = merge, streaming, seed
        self._preprocess, self._pictures, self._mirror_safe = preprocess, pictures, mirror_safe
        self._queue = self._no_queue()
        self._memory: Memory | None = None
        self._schema: Schema | None = None
        self._shape: tuple[int, int, int] | None = None
        self._updates = 0
        self._whole: AvalancheDataset[Any] = AvalancheDataset([])

    @property
    def parts(self) -> tuple[Part, ...]:
        """Remembered images, one part for each class and visit."""
        return () if self._memory is None else tuple(self._memory.parts)

    @property
    def nbytes(self) -> int:
        """Bytes of images and labels that are remembered."""
        return 0 if self._memory is None else self._memory.nbytes

    @property
    def waiting(self) -> int:
        """Real images that wait to be distilled: all real images that are kept."""
        return len(self._queue)

    @property
    def buffer(self) -> AvalancheDataset[Any]:
        """The memory as a data set of the stream's form; empty before the first distillation."""
        return self._whole

    def newest(self) -> AvalancheDataset[Any]:
        """Return the images of the last distillation, in the form of `buffer`."""
        last = max((part.visit for part in self.parts), default=0)
        return self._dataset([part for part in self.parts if part.visit == last], self.replay)

    def update(self, strategy: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Do as `post_adapt` with the strategy's experience; Avalanche's own warns of its end at each call."""
        self.post_adapt(strategy, strategy.experience)

    def post_adapt(self, agent: Any, exp: Any) -> None:  # noqa: ANN401, ARG002
        """Distil the images of an experience, or let them wait in the queue of a stream."""
        dataset = exp.dataset
        if len(dataset) == 0:
            return
        if self._schema is None:
            self._schema = Schema.of(dataset)
        if self._preprocess is None:
            self._preprocess = value_space(dataset)
        came = arrivals(dataset, self._preprocess)
        c, h, w = came.images.shape[1:]
        self._shape = (c, h, w)
        if self._streaming is None:
            self._remember(came)
            return
        if getattr(exp, "is_first_subexp", False):
            self.flush()
        self._queue.add(came)
        if self._queue.pieces >= self._streaming.every:
            self.flush()

    def flush(self) -> None:
        """Distil the waiting images, such as at the end of a stream; after a failure they wait on."""
        before = self._queue.to_state()
        waiting = self._queue.empty()
        try:
            if waiting is not None:
                self._remember(waiting)
        except BaseException:
            self._queue.load(before)
            raise

    def resize(self, strategy: Any, new_size: int) -> None:  # noqa: ANN401, ARG002
        """Take the bytes of `new_size` real images; items are dropped so that the mean of each class moves least."""
        require_count("new_size", new_size)
        if self._memory is not None and self._shape is not None and self._budget_bytes is None:
            self._memory.fit(new_size * sample_bytes(self._shape))
            self._show()
        self.max_size = new_size

    def to_state(self) -> dict[str, Any]:
        """Return the state of which the next update depends, as tensors and plain values."""
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
        """Take the state that `to_state` gave; a run then goes on bit for bit.

        Raises:
            ResumeError: If it is of a buffer with other settings; the message names them.
        """
        mine, theirs = self._settings(), state["settings"]
        other = [name for name in mine if mine[name] != theirs.get(name)]
        if other:
            changes = ", ".join(f"{name} was {theirs.get(name)!r} and is {mine[name]!r}" for name in other)
            raise ResumeError(f"the buffer was made with other settings: {changes}")
        shape, max_size = state["shape"], state["max_size"]
        queue, memory = self._no_queue(), None
        queue.load(state["queue"])
        if state["parts"]:
            memory = self._no_memory(shape, max_size)
            memory.load(state["parts"])
        schema = None if state["schema"] is None else Schema(**state["schema"])
        if state["preprocess"] is not None:
            self._preprocess = dd.Preprocess.from_state(*state["preprocess"])
        self.calls, self.seconds, self._updates = state["calls"], state["seconds"], state["updates"]
        self.max_size, self._shape, self._schema = max_size, shape, schema
        self._queue, self._memory = queue, memory
        self._show()

    def _settings(self) -> dict[str, str]:
        names = (
            *("distiller", "replay", "_budget_bytes", "_classes", "_visits", "_merge"),
            *("_streaming", "_pictures", "_mirror_safe", "_seed"),
        )
        settings = {name.lstrip("_"): repr(getattr(self, name)) for name in names}
        return {**settings, "codec": repr(codec_state(self.codec))}

    def _no_queue(self) -> Queue:
        return Queue(1 if self._streaming is None else self._streaming.room, self._seed)

    def _no_memory(self, shape: tuple[int, int, int], max_size: int) -> Memory:
        budget = self._budget_bytes or max_size * sample_bytes(shape)
        return Memory(budget, self._classes, None if self._merge else self._visits)

    def _remember(self, came: Arrivals) -> None:
        """Distil new images, task by task; the memory changes as a whole, or not at all."""
        now = moments(came)
        keys = [key for moment in now for key in moment.keys]
        width = self.replay.soft
        if width is not None:
            most = max(label for _, label in keys)
            require(most < width, "soft", f"be more than the class {most}", width)
        memory = self._memory or self._no_memory(now[0].shape, self.max_size)
        parts: list[Part] = []
        for number, moment in enumerate(now, self._updates + 1):
            parts += self._distilled(memory, moment, keys, number)
        memory.put(parts, replace=self._merge)
        self._memory = memory
        self._updates += len(now)
        self._show()

    def _distilled(self, memory: Memory, moment: Moment, coming: list[Key], number: int) -> list[Part]:
        assert self._preprocess is not None
        rng = dd.generator("continual", self._seed, number)
        alone = len(moment.keys) == 1
        past = moment.past(memory.parts) if self.distiller.past or alone else {}
        old = {len(moment.keys) + c: part for c, part in remembered(list(past), memory.parts).items()}
        visits = 1
        if self._merge:
            old |= remembered(moment.keys, memory.parts)
            moment = moment.with_old(memory.parts)
        else:
            visits += max(len(memory.of(key)) for key in moment.keys)
        labels = LABEL_BYTES if self.replay.soft is None else 2 * len(moment.keys)
        share = memory.share(coming, visits)
        ipc = self.distiller.items_within(share, moment.shape, self.codec, labels)
        facts = {"pictures": self._pictures, "mirror_safe": self._mirror_safe}
        real = moment.real(self._preprocess, past, rng, **facts)
        start = start_of(old, self._preprocess, real.num_classes)
        made = self.distiller(real, ipc, rng=rng, new=len(moment.keys), start=start)
        self.calls += 1
        self.seconds += made.seconds
        return self._parts(moment, made, number)

    def _parts(self, moment: Moment, made: Made, number: int) -> list[Part]:
        labels = made.labels[:, : len(moment.keys)]
        soft = self.replay.soft is not None and bool(((labels != 0) & (labels != 1)).any())
        parts = []
        for c, key in enumerate(moment.keys):
            mine = made.classes == c
            codec, packed = made.stored.get(c) or (self.codec, self.codec.pack(made.images[mine]))
            rows = labels[mine] / labels[mine].sum(1, keepdim=True).clamp_min(1e-12)
            parts.append(
                Part(
                    key=key,
                    visit=number,
                    codec=codec,
                    packed=packed,
                    shape=moment.shape,
                    soft=rows.half() if soft else None,
                    classes=tuple(label for _, label in moment.keys) if soft else (),
                )
            )
        return parts

    def _show(self) -> None:
        """Make the data sets that Avalanche reads anew from the memory."""
        labels = list(dict.fromkeys(part.key[1] for part in self.parts))
        each = dataclasses.replace(self.replay, fill=-(-self.replay.fill // max(1, len(labels))))
        self.buffer_groups = {label: self._group(label, each) for label in labels}
        self._whole = self._dataset(list(self.parts), self.replay)

    def _group(self, label: int, replay: Replay) -> _Group:
        group = _Group(self.max_size)
        group.buffer = self._dataset([part for part in self.parts if part.key[1] == label], replay)
        return group

    def _dataset(self, parts: list[Part], replay: Replay) -> AvalancheDataset[Any]:
        if not parts or self._schema is None or self._preprocess is None:
            return AvalancheDataset([])
        return as_avalanche(Items(parts, self._preprocess, self._schema, replay, self._seed), self._schema)
