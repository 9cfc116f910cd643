"""Fitting levels to what the network sees, alone or one after the other, and remembering every fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxtune.apply import apply
from onnxtune.blas import one_thread
from onnxtune.calibrate.answers import Answers
from onnxtune.calibrate.dataset import Dataset
from onnxtune.calibrate.evidence import Evidence, gather
from onnxtune.calibrate.layer import Layer
from onnxtune.calibrate.level import Fitted, Level
from onnxtune.calibrate.store import FitStore, fit_key
from onnxtune.model import Model
from onnxtune.proposal import Fragment, Proposal
from onnxtune.runtime import Target

Notify = Callable[[str, int, int], None]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Fitter:
    """`teacher`: the model whose layers are approximated; `digest`: hash of the data."""

    teacher: Model
    data: Dataset
    digest: str
    store: FitStore
    target: Target
    seed: int
    notify: Notify
    _last: dict[str, Evidence] = field(default_factory=dict)
    """What the layers of the levels that were looked at last see in the unchanged network."""
    _about: list[str] = field(default_factory=list)
    """Whose levels those were."""
    _latest: dict[tuple[str, bytes], tuple[str, Fragment]] = field(default_factory=dict)
    """The latest fit of a level to these samples and no others, with its key: where the next one starts. One that has
    seen more would carry what it has seen into folds that are to be judged on it."""
    _starts: dict[str, tuple[str, Fragment] | None] = field(default_factory=dict)
    """Where each fit started: asked for again it is the same one."""

    @cached_property
    def _answers(self) -> Answers:
        return Answers(self.data.count)

    @cached_property
    def _teacher_hash(self) -> str:
        return self.teacher.graph_sha256()

    def alone(self, levels: Sequence[Level], indices: Indices) -> list[Fitted]:
        """Rough fits of levels of one layer, each to the unchanged network."""
        found = []
        for level in levels:

            def fresh(near: Fragment | None, level: Level = level) -> Fitted:
                assert near is None, "rough fits start afresh"
                if self._about != [level.layer.key]:
                    self._last.clear()
                    self._about[:] = [level.layer.key]
                return level.fitted(lambda layer, change: self._seen(layer, change, indices), True)

            found.append(self._known(level, self.teacher, indices, fresh, rough=True))
        return found

    def forget(self) -> None:
        """Drop what was seen of the last layer: it may be large."""
        self._last.clear()

    def in_order(self, levels: Sequence[Level], indices: Indices) -> tuple[Model, tuple[Fitted, ...]]:
        """The network with all levels, given in its own order, each fitted to what those before have made of it."""
        self._last.clear()  # large, and of no use here
        self._about.clear()
        student, done = self.teacher, list[Fitted]()
        for level in levels:

            def fresh(near: Fragment | None, level: Level = level, student: Model = student) -> Fitted:
                def look(layer: Layer, change: Proposal | None) -> Evidence:
                    now = student if change is None else apply(student, [change])
                    return self._gather(layer, now, indices)

                return level.fitted(look, False, near)

            done.append(self._known(level, student, indices, fresh, rough=False))
            student = apply(student, [done[-1].proposal])
        return student, tuple(done)

    def _seen(self, layer: Layer, change: Proposal | None, indices: Indices) -> Evidence:
        """In the unchanged network, remembered; of further layers of a level only the moments."""
        if change is not None:
            return self._gather(layer, apply(self.teacher, [change]), indices)
        if layer.key not in self._last:
            seen = self._gather(layer, self.teacher, indices)
            self._last[layer.key] = seen if self._about == [layer.key] or layer.wide else seen.without_rows()
        return self._last[layer.key]

    def _gather(self, layer: Layer, student: Model, indices: Indices) -> Evidence:
        def tell(done: int, total: int) -> None:
            self.notify(f"looking at {layer.key}", done, total)

        seed, answers = self.seed, self._answers
        return gather(layer, self.teacher, student, self.data, indices, self.target, seed, tell, answers)

    def _known(
        self,
        level: Level,
        student: Model,
        indices: Indices,
        fresh: Callable[[Fragment | None], Fitted],
        *,
        rough: bool,
    ) -> Fitted:
        asked = fit_key(
            level=level.identity,
            teacher=self._teacher_hash,
            student=self._teacher_hash if student is self.teacher else student.graph_sha256(),
            data=self.digest,
            indices=[int(i) for i in indices],
            seed=self.seed,
            rough=rough,
        )
        samples = level.identity, indices.tobytes()
        if asked not in self._starts:
            self._starts[asked] = None if rough or level.again is None else self._latest.get(samples)
        start = self._starts[asked]
        key = asked if start is None else fit_key(asked=asked, start=start[0])

        def make() -> tuple[Fragment, float]:
            with one_thread(narrow=not level.layer.wide):
                fitted = fresh(None if start is None else start[1])
            return fitted.proposal.fragment, fitted.error

        fragment, error = self.store.get(key, make)
        if level.again is not None:
            self._latest[samples] = key, fragment
        return Fitted(replace(level.unfitted, fragment=fragment), error)
