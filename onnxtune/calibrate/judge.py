"""Scoring a rewritten model against the original on the user's samples: by which metric, and how much is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune import accuracy
from onnxtune.accuracy import KINDS, Drop, Scores
from onnxtune.calibrate.dataset import Dataset
from onnxtune.calibrate.functions import named, users_code
from onnxtune.errors import DataError, UsageError
from onnxtune.model import Model
from onnxtune.runtime import Outputs, Session, Target, worker

BATCH_BYTES = 2**24
Scored = dict[str, Scores]
"""Output -> (n, classes) logits, or (n,) scores of which more is better."""
Notify = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """How one output is judged: the metric and, in words, why that one."""

    output: str
    metric: str
    why: str


class Judge:
    """Holds the original's scores on all samples (computed once, which also checks every sample).

    Raises DataError for samples that cannot be fed, UsageError for a metric that does not fit the model.
    """

    def __init__(
        self,
        original: Model,
        data: Dataset,
        target: Target,
        *,
        metric: str | None = None,
        confidence: float = 0.9,
        crop_border: int = 0,
        notify: Notify = lambda done, total: None,
    ) -> None:
        self.data, self.target, self.confidence, self.crop_border = data, target, confidence, crop_border
        session = worker(original, target)
        first = session.run(data.feeds(np.zeros(data.batch or 1, np.int64)))
        self._function = named("--metric", metric) if metric and ":" in metric else None
        self.plans = plan_outputs(first, data.labels, metric)
        self._dense = [p for p in self.plans if p.metric in ("psnr", "relative_error")]
        self.peaks = {p.output: accuracy.peak_of(self._truth(first[p.output])) for p in self._dense}
        everything = np.arange(data.count)
        self.before = self._score(session, None, everything, notify)
        against = any(not self._has_targets(p) for p in self._dense)
        self._original = session if against else None  # it may be large: kept only where it is asked again
        self._as_logits = {p.output: accuracy.logits_of(self.before[p.output]) for p in self.plans}
        labels = data.labels
        self.heat = None
        if labels is not None and labels.ndim == 1:
            ranked = next((p.output for p in self.plans if p.metric in ("top1", "top5")), None)
            if ranked is not None:
                classes = self.before[ranked].shape[1]
                if int(labels.max()) >= classes:
                    raise DataError(f"{data.source}: label {labels.max()}, but output '{ranked}' has {classes} classes")
                self.heat = accuracy.temperature(self._as_logits[ranked](self.before[ranked]), labels)

    @property
    def classified(self) -> bool:
        """Does a sample only tell right from wrong?"""
        return not self._dense

    @property
    def main(self) -> Plan:
        return self.plans[0]

    def score(self, model: Model, indices: NDArray[Any], notify: Notify = lambda done, total: None) -> Scored:
        """The rewritten model's scores on these samples."""
        return self._score(worker(model, self.target), self._original, indices, notify)

    def drop(self, after: Mapping[str, Scores], indices: NDArray[Any], confidence: float | None = None) -> Drop:
        """The loss on the samples that `after` was scored on; of several outputs the worst."""
        sure = self.confidence if confidence is None else confidence
        drops = {p.output: self._drop(p, after[p.output], indices, sure) for p in self.plans}
        return max(drops.values(), key=lambda d: d.bound)

    def _drop(self, plan: Plan, after: Scores, indices: NDArray[Any], confidence: float) -> Drop:
        before, name = self.before[plan.output][indices], plan.output if len(self.plans) > 1 else ""
        labels = self.data.labels
        if plan.metric in ("top1", "top5"):
            known = labels[indices] if labels is not None and labels.ndim == 1 else None
            top = int(plan.metric.removeprefix("top"))
            return accuracy.classifier_drop(before, after, known, confidence, top=top, heat=self.heat, output=name)
        if plan.metric == "agreement":
            return accuracy.agreement_drop(before, after, confidence, name)
        return accuracy.score_drop(plan.metric, before, after, confidence, plan.why, name)

    # --- scoring -----------------------------------------------------------------------------

    def _score(self, session: Session, original: Session | None, indices: NDArray[Any], notify: Notify) -> Scored:
        parts: dict[str, list[Scores]] = {p.output: [] for p in self.plans}
        names = [p.output for p in self.plans]
        done, size = 0, 1
        while done < len(indices):
            for chosen, feeds, count in self.data.batches(indices[done : done + size], size):
                outputs = {n: v[:count] for n, v in session.run(feeds, names).items()}
                reference = {} if original is None else original.run(feeds, names)
                for plan in self.plans:
                    want = reference.get(plan.output)
                    parts[plan.output].append(
                        self._scores(plan, outputs, None if want is None else want[:count], chosen)
                    )
                done += len(chosen)
                one = sum(v.nbytes for v in (*feeds.values(), *outputs.values())) // max(count, 1)
            notify(done, len(indices))
            size = int(np.clip(BATCH_BYTES // max(one, 1), 1, 64))
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def _scores(self, plan: Plan, outputs: Outputs, reference: NDArray[Any] | None, chosen: NDArray[Any]) -> Scores:
        have = outputs[plan.output]
        if plan.metric in ("top1", "top5", "agreement"):
            return have.reshape(len(have), -1).astype(np.float64)
        if self._function is not None:
            return self._ask(outputs, chosen)
        want = self._truth(have, chosen) if self._has_targets(plan) else reference
        if want is None:
            return np.zeros(len(have))
        have, want = self._inside(have), self._inside(want)
        if plan.metric == "psnr" and self._has_targets(plan):
            return accuracy.psnr(have, want, self.peaks[plan.output])
        if plan.metric == "psnr":
            return -accuracy.assumed_psnr_drop(have, want, self.peaks[plan.output])
        return -accuracy.relative_error(have, want)

    def _inside(self, values: NDArray[Any]) -> NDArray[Any]:
        """Maps (N, C, H, W) without the pixels at the border that do not count."""
        border = self.crop_border
        if not border or values.ndim != 4:
            return values
        if min(values.shape[2:]) <= 2 * border:
            raise UsageError(
                f"--crop-border {border}: the output has {values.shape[2]} x {values.shape[3]} pixels only"
            )
        return values[:, :, border:-border, border:-border]

    def _has_targets(self, plan: Plan) -> bool:
        return plan.metric == "psnr" and self.data.labels is not None and self.data.labels.ndim > 1

    def _truth(self, have: NDArray[Any], chosen: NDArray[Any] | None = None) -> NDArray[Any]:
        """Targets in the output's shape, or the output itself where there are none."""
        labels = self.data.labels
        if labels is None or labels.ndim == 1:
            return have
        rows = np.asarray(labels[:1] if chosen is None else labels[chosen])
        if rows[0].size != have[0].size:
            want, got = ("x".join(map(str, a.shape[1:])) for a in (have, rows))
            raise DataError(f"{self.data.source}: targets of {got} for an output of {want}")
        return rows.reshape(len(rows), *have.shape[1:])

    def _ask(self, outputs: Outputs, chosen: NDArray[Any]) -> Scores:
        name, function = self.main.metric, self._function
        assert function is not None, "asked for only when there is one"
        labels = None if self.data.labels is None else self.data.labels[chosen]
        with users_code(f"--metric {name}", UsageError):
            answer = function(outputs, labels)
        try:
            values = np.asarray(answer, np.float64)
        except (TypeError, ValueError):
            raise UsageError(f"--metric {name}: it returned a {type(answer).__name__} that is no numbers") from None
        if values.shape != (len(chosen),):
            shape = "x".join(map(str, values.shape)) or "one number"
            raise UsageError(f"--metric {name}: it must return a score for each of {len(chosen)} samples, not {shape}")
        if not np.isfinite(values).all():
            raise UsageError(f"--metric {name}: it returned NaN or infinite scores")
        return values


def plan_outputs(outputs: Outputs, labels: NDArray[Any] | None, metric: str | None) -> tuple[Plan, ...]:
    """A metric for every output that holds numbers. Raises UsageError when the wanted one does not fit."""
    floats = {n: v for n, v in outputs.items() if v.dtype.kind == "f" and v.size}
    if not floats:
        raise UsageError("no output holds floating-point numbers: give --metric module:function")
    if metric and ":" in metric:
        return (Plan(next(iter(outputs)), metric, "your function"),)
    if metric and metric not in KINDS:
        raise UsageError(f"--metric {metric}: must be one of {', '.join(KINDS)} or module:function")
    found = []
    for name, value in floats.items():
        ranked = value.ndim >= 2 and value.shape[1] > 1 and value.size == len(value) * value.shape[1]
        found.append(Plan(name, *_metric(ranked, value, labels, metric, name)))
    return tuple(found)


def _metric(
    ranked: bool, value: NDArray[Any], labels: NDArray[Any] | None, metric: str | None, name: str
) -> tuple[str, str]:
    if metric in ("top1", "top5", "agreement"):
        if not ranked:
            raise UsageError(f"--metric {metric}: output '{name}' has no row of class scores (it is {value.shape[1:]})")
        return metric, "as asked for"
    if metric is not None:
        if metric == "psnr" and (labels is None or labels.ndim == 1):
            assumed = f"no targets: assumes that the original reaches {accuracy.ASSUMED_PSNR:g} dB"
            return metric, f"{assumed}; --labels brings targets"
        return metric, "against the targets" if metric == "psnr" else "change relative to the output's spread"
    if ranked and labels is not None and labels.ndim == 1:
        return "top1", "class scores and labels are there"
    if ranked:
        return "agreement", "class scores, no labels"
    if labels is not None and labels.ndim > 1:
        return "psnr", "against the targets"
    return "relative_error", "a dense output without targets: change relative to its spread"


def joined(parts: Sequence[tuple[NDArray[Any], Scored]]) -> tuple[NDArray[Any], Scored]:
    """Scores of several sets of samples as one."""
    indices = np.concatenate([i for i, _ in parts])
    return indices, {name: np.concatenate([s[name] for _, s in parts]) for name in parts[0][1]}
