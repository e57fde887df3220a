"""Classes of a data set: their ids and names, the same classes in test data, and a choice or grouping of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast, final

import torch
from torch import Tensor

from ddsdk.data.labels import listed, require_shared
from ddsdk.data.raw import Raw
from ddsdk.foundation import note, require

Classes: TypeAlias = "str | Sequence[str] | Mapping[str, Sequence[str]] | ClassChoice"


@final
@dataclass(frozen=True)
class ClassIndex:
    """Classes of the train data, to which the labels of both splits are brought.

    Attributes:
        names: Names of the K classes.
        ids: Ids of the classes in the source, (K,) int64 in ascending order; None if the labels are positions.
    """

    names: tuple[str, ...]
    ids: Tensor | None = None

    @classmethod
    def of(cls, train: Raw) -> ClassIndex:
        """Return the classes of train data. Ids without names become names; ids other than 0..K-1 give a note."""
        if train.class_names is not None:
            return cls(train.class_names)
        ids = torch.unique(train.labels)
        rule = "be class ids from 0 on; a negative id usually marks items without a label, which must be left out"
        allowed = bool((ids >= 0).all()) or ids.tolist() == [-1, 1]
        item = int((train.labels < 0).nonzero()[0]) if len(ids) and ids[0] < 0 else 0
        require(allowed, "labels", rule, f"{int(train.labels[item]) if len(ids) else None} in item {item}")
        require_shared(train.labels, "labels")
        names = tuple(map(str, ids.tolist()))
        if ids.tolist() != list(range(len(ids))):
            note(f"labels {listed(names)} are not 0..{len(ids) - 1}, and are read as {len(ids)} classes of these names")
        return cls(names, ids)

    def applied(self, raw: Raw, split: str) -> Raw:
        """Return a split with labels 0..K-1 and the names of these classes.

        Args:
            raw: Split whose labels are ids or positions in its own class names.
            split: Name of the split in messages, "train" or "test".
        """
        labels = raw.labels
        if raw.class_names is not None:
            found = self._positions(raw.class_names, split)
            low, high = int(labels.min()), int(labels.max())
            rule = f"lie in 0..{len(found) - 1}, the positions of its classes"
            require(low >= 0 and high < len(found), f"labels of {split}", rule, (low, high))
            positions = torch.tensor(found)[labels]
        elif self.ids is not None:
            positions = torch.searchsorted(self.ids, labels).clamp(max=len(self.ids) - 1)
            positions[self.ids[positions] != labels] = -1
        else:
            positions = self._by_position(labels, split)
        unknown = torch.nonzero(positions < 0).flatten()
        if len(unknown):
            item = int(unknown[0])
            other = str(int(labels[item])) if raw.class_names is None else raw.class_names[int(labels[item])]
            rule = f"be among those of train, {list(self.names[:20])}"
            require(False, f"classes of {split}", rule, f"{other!r} in item {item}")
        return replace(raw, labels=positions, class_names=self.names)

    def _positions(self, names: tuple[str, ...], split: str) -> list[int]:
        # Names such as the two "crane" of ImageNet are no keys; equal lists need none.
        if names == self.names:
            return list(range(len(names)))
        twice = sorted({name for name in names if self.names.count(name) > 1})
        require(not twice, f"classes of {split}", "be in the order of train, because names are not unique", twice)
        return [self.names.index(name) if name in self.names else -1 for name in names]

    def _by_position(self, labels: Tensor, split: str) -> Tensor:
        low, high = int(labels.min()), int(labels.max())
        rule = f"lie in 0..{len(self.names) - 1}, the positions of {list(self.names[:20])}"
        require(low >= 0 and high < len(self.names), f"labels of {split}", rule, (low, high))
        # The number 1 may be the class "1" or the second class.
        for c in torch.unique(labels).tolist():
            named = str(c) in self.names and self.names[c] != str(c)
            require(not named, f"labels of {split}", f"be the names {list(self.names[:20])} of train", c)
        return labels


@final
@dataclass(frozen=True)
class ClassChoice:
    """Choice and grouping of classes; images of other classes are left out.

    Attributes:
        groups: Pairs of a name and the classes that it joins, in the order of the new classes.

    Examples:
        >>> import ddsdk
        >>> ddsdk.data.ClassChoice.of("cat,dog").names
        ('cat', 'dog')
        >>> ddsdk.data.ClassChoice.of("cats=persian,siamese; beagle").groups
        (('cats', ('persian', 'siamese')), ('beagle', ('beagle',)))
    """

    groups: tuple[tuple[str, tuple[str, ...]], ...]

    def __post_init__(self) -> None:
        require(len(self.groups) >= 2, "classes", "name at least 2 classes", list(self.names))
        require(len(set(self.names)) == len(self.names), "classes", "have different names", list(self.names))
        members = [member for _, group in self.groups for member in group]
        require(len(set(members)) == len(members), "classes", "name each class once", members)
        empty = [name for name, group in self.groups if not name or not group or "" in group]
        require(not empty, "classes", "have a name and members, such as 'cats=persian,siamese'", empty)

    def __str__(self) -> str:
        """Return the choice as a text that `of` reads."""
        return ";".join(name if group == (name,) else f"{name}={','.join(group)}" for name, group in self.groups)

    @classmethod
    def of(cls, value: Classes | None) -> ClassChoice | None:
        """Return the choice that a text, a list of names or a mapping from names to members states; None gives None.

        Args:
            value: Names of classes, such as ``["cat", "dog"]``; groups, such as ``{"cats": ["persian", "siamese"]}``;
                or a text: ``"cat,dog"``, with groups ``"cats=persian,siamese;dogs=beagle"``.
        """
        if value is None or isinstance(value, ClassChoice):
            return value
        if isinstance(value, str):
            return cls(tuple(group for part in value.split(";") if part.strip() for group in _groups(part)))
        if isinstance(value, Mapping):
            named = {name: (group,) if isinstance(group, str) else tuple(group) for name, group in value.items()}
            return cls(tuple(named.items()))
        return cls(tuple((name, (name,)) for name in map(str, value)))

    @classmethod
    def from_state(cls, state: object) -> ClassChoice:
        """Return the choice that `state` describes, which may come from an untrusted file.

        Args:
            state: JSON list of pairs: name, and list of the classes that it joins; others are a ValueError.
        """

        def is_group(pair: object) -> bool:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                return False
            name, group = pair
            return isinstance(group, list | tuple) and all(isinstance(text, str) for text in (name, *group))

        is_state = isinstance(state, list | tuple) and all(map(is_group, state))
        require(is_state, "classes", "be a list of pairs [name, [class, …]]", state)
        return cls(tuple((name, tuple(group)) for name, group in cast("list[Any]", state)))

    @property
    def state(self) -> list[Any]:
        """Groups as a JSON list, which `from_state` reads."""
        return [[name, list(group)] for name, group in self.groups]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the chosen classes in their order."""
        return tuple(name for name, _ in self.groups)

    def applied(self, raw: Raw) -> Raw:
        """Return the items of the chosen classes, with labels in the order of the choice."""
        names = raw.class_names or ()
        position = torch.full((len(names),), -1, dtype=torch.int64)
        for c, (_, group) in enumerate(self.groups):
            for member in group:
                similar = difflib.get_close_matches(member, names, n=1)
                hint = f" (did you mean {similar[0]!r}?)" if similar else ""
                require(member in names, "classes", f"be among {list(names[:50])}{hint}", member)
                require(names.count(member) == 1, "classes", "be names of one class each", member)
                position[names.index(member)] = c
        labels = position[raw.labels]
        kept = torch.nonzero(labels >= 0).flatten()
        return replace(raw.select(kept), labels=labels[kept], class_names=self.names)


def _groups(part: str) -> list[tuple[str, tuple[str, ...]]]:
    name, sign, members = part.partition("=")
    names = tuple(word.strip() for word in (members if sign else name).split(",") if word.strip())
    return [(name.strip(), names)] if sign else [(word, (word,)) for word in names]
