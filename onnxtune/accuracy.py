"""How much worse a rewritten network is: metrics, the estimated drop, and a bound on it. Pure functions of values.

The drop of a metric is estimated from paired per-sample differences and bounded from above, one-sided, at a
confidence. Counting flips of a few hundred images cannot bound a drop of one point: with 4 % flips and 400 images
the standard error is a point. So the main estimator of a top-1 drop is the *expected* one under the original's own
posterior p, sharpened or softened by a temperature:

    mean of p(argmax original) - p(argmax rewritten)

which is zero where the two agree and small where they differ near a tie, where flips happen. The temperature is
that of the least negative log-likelihood of the labels (Guo et al., On Calibration of Modern Neural Networks,
2017); without labels it is CAREFUL. What p says of a flip may be wrong on average, by an amount b that only labels
tell: b is taken for normal with mean 0 and standard deviation t = DOUBT * share of flips. With labels their mean
gap to the expected drop measures b with standard error s, and of all mixtures

    (1 - w) expected + w labelled,   w = t^2 / (t^2 + s^2)

errs least: by the mixture's own standard error and by (1 - w) t that no sample tells. Few labels count little, many
decide. Taking the gap in only when it is significant would leave the rest of b in. Where the gap is beyond both t and
its error, on the side of a loss, t is what remains of it without the error.
Without labels w is 0. The labelled difference itself can veto. The bound is that of a sample with one more, lost,
image: no flips among 400 images do not prove that there are none.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxtune.errors import UsageError

Kind = Literal["top1", "top5", "agreement", "psnr", "relative_error", "function"]
KINDS: tuple[str, ...] = ("top1", "top5", "agreement", "psnr", "relative_error")
CAREFUL = 1.25
"""Temperature without labels: networks are mostly too sure of themselves."""
ASSUMED_PSNR = 40.0
"""dB that the original is taken to reach against the truth where no targets are given."""
DOUBT = 0.1
"""How far the expected loss of a flip may be from the real one on average: standard deviation, top-1 for each flip."""
RESAMPLES, IN_TAIL = 2000, 20
"""Bootstrap samples, and how many of them should lie beyond the bound."""
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Drop:
    """The loss of a metric, in the metric's unit (a share, dB, or the function's own).

    `estimate` and one-sided upper `bound` at `confidence`; `labelled`: the plain paired difference where labels
    are there, with its own one-sided lower end `labelled_low`; `flips`: share of samples whose decision changed.
    `deviation`: standard deviation of the per-sample differences. `output`: which output of several. `doubt`: t, and
    `weight`: w of the module's docstring, where the estimate is such a mixture.
    """

    metric: str
    estimator: str
    estimate: float
    bound: float
    confidence: float
    samples: int
    deviation: float
    before: float | None = None
    after: float | None = None
    labelled: float | None = None
    labelled_low: float | None = None
    flips: float | None = None
    output: str = ""
    doubt: float = 0.0
    weight: float = 0.0

    def within(self, budget: float) -> bool:
        """May the rewrite pass? The bound must be within the budget, and the labels must not contradict."""
        return self.bound <= budget and (self.labelled_low is None or self.labelled_low <= budget)

    def spread(self, samples: int) -> float:
        """What the estimate would err by (standard deviation) on this many samples.

        With s^2 = t^2 (1 - w) / w on n samples, the mixture's variance on m is that of the expected loss / m, and
        w'^2 s'^2 + (1 - w')^2 t^2 = (1 - w') t^2, where s'^2 = s^2 n / m.
        """
        square, more = self.doubt**2, samples / self.samples
        expected = max(self.deviation**2 - self.samples * square * self.weight * (1 - self.weight), 0.0)
        return math.sqrt(expected / samples + square * (1 - self.weight) / (1 - self.weight + self.weight * more))

    def foreseen(self, samples: int, confidence: float) -> float:
        """About the bound on this many samples at this confidence, if the estimate stays."""
        lost = 1 / samples if self.metric in ("top1", "top5", "agreement") else 0.0
        return self.estimate + lost + normal_quantile(confidence) * math.hypot(self.spread(samples), lost)

    def margin(self, samples: int, confidence: float, budget: float) -> float:
        """How far the bound on so many other samples should stay below the budget, in standard deviations of what the
        estimates on these and on those may differ by."""
        error = math.hypot(self.spread(self.samples), self.spread(samples))
        gap = budget - self.foreseen(samples, confidence)
        return gap / error if error else math.copysign(math.inf, gap)

    def needed(self, budget: float) -> int | None:
        """Samples with which the bound would come within the budget if the estimate stays; None: it is itself over,
        or what samples without labels cannot tell is."""
        if self.estimate >= budget:
            return None
        allowed, most = (budget - self.estimate) / normal_quantile(self.confidence), 2**40
        if self.spread(most) > allowed:
            return None
        return bisect.bisect_left(range(most), True, lo=self.samples, key=lambda n: self.spread(n) <= allowed)


def parse_budget(text: str | float, metric: str) -> float:
    """`0.5%` or 0.005 as a share; dB for psnr. Raises UsageError for what is not plausible."""
    words = str(text).strip()
    try:
        value = float(words.removesuffix("%").removesuffix("dB").strip()) / (100 if words.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"--max-drop {text}: expected a share such as 0.5% or 0.005, or dB for psnr") from None
    if not 0 <= value < math.inf:
        raise UsageError(f"--max-drop {text}: must be a number from 0 on")
    if metric == "psnr" and words.endswith("%"):
        raise UsageError(f"--max-drop {text}: psnr drops in dB, not in per cent")
    if metric in ("top1", "top5", "agreement") and not words.endswith("%") and value >= 0.2:
        raise UsageError(f"--max-drop {text}: that is {value:.0%} of all samples; write {words}% if you mean per cent")
    return value


def unit(metric: str) -> tuple[float, str]:
    """(factor, suffix) with which people read the metric's drop."""
    if metric in ("top1", "top5", "agreement", "relative_error"):
        return 100.0, "%"
    return (1.0, " dB") if metric == "psnr" else (1.0, "")


def normal_quantile(confidence: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(confidence))


def upper_mean(values: Scores, confidence: float) -> float:
    """One-sided upper bound of a mean: Student's t and the bootstrap, whichever is larger. (n,) with n >= 2."""
    from scipy.special import stdtrit

    n = len(values)
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    student = mean + float(stdtrit(n - 1, confidence)) * deviation / math.sqrt(n)
    rng = np.random.default_rng(0)
    count = max(RESAMPLES, math.ceil(IN_TAIL / (1 - confidence)))
    rows = [float(values[rng.integers(0, n, n)].mean()) for _ in range(count)]
    return max(student, float(np.quantile(rows, confidence)))


def temperature(logits: Scores, labels: NDArray[np.int64]) -> float:
    """The temperature under which the labels are most likely; logits (n, classes)."""
    from scipy.optimize import minimize_scalar

    known = labels < logits.shape[1]

    def loss(log_temperature: float) -> float:
        logs = log_softmax(logits[known] / math.exp(log_temperature))
        return -float(logs[np.arange(len(logs)), labels[known]].mean())

    return float(math.exp(minimize_scalar(loss, bounds=(math.log(0.2), math.log(10.0)), method="bounded").x))


def log_softmax(logits: Scores) -> Scores:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def logits_of(outputs: Scores) -> Callable[[Scores], Scores]:
    """How outputs of this kind (n, classes) become logits: probabilities by their logarithms, others as they are."""
    sums = outputs.sum(axis=1) if outputs.ndim == 2 else np.zeros(1)
    if outputs.min(initial=0.0) >= 0 and np.allclose(sums, 1, atol=1e-3):
        return lambda values: np.asarray(np.log(np.maximum(values, 1e-30)))
    return lambda values: values


def classifier_drop(
    before: Scores,
    after: Scores,
    labels: NDArray[np.int64] | None,
    confidence: float,
    *,
    top: int = 1,
    heat: float | None = None,
    output: str = "",
) -> Drop:
    """Drop of top-1 or top-5 accuracy; logits (n, classes) of the original and the rewritten network."""
    top = min(top, before.shape[1])
    heat = heat or (CAREFUL if labels is None else temperature(before, labels))
    probability = np.exp(log_softmax(before / heat))
    first, second = leading(before, top), leading(after, top)
    differences = np.take_along_axis(probability, first, 1).sum(1) - np.take_along_axis(probability, second, 1).sum(1)
    changed = (np.sort(first, 1) != np.sort(second, 1)).any(axis=1)
    flips, metric = float(changed.mean()), f"top{top}"
    estimator = f"expected under the original's posterior, temperature {heat:.2f}"
    doubt = DOUBT * float(np.append(changed, True).mean())
    if labels is None:
        return _bounded(metric, estimator, differences, confidence, doubt, 0.0, flips=flips, output=output)
    right = [(chosen == labels[:, None]).any(axis=1).astype(float) for chosen in (first, second)]
    labelled = right[0] - right[1]
    z, root = normal_quantile(confidence), math.sqrt(len(labels))
    gap = np.append(labelled - differences, 1.0)
    error = float(gap.std(ddof=1)) / root
    doubt = max(doubt, math.sqrt(max(max(float(gap.mean()), 0.0) ** 2 - error**2, 0.0)))
    weight = doubt**2 / (doubt**2 + error**2)
    return _bounded(
        metric,
        f"{weight:.0%} counted by the labels, the rest {estimator}",
        (1 - weight) * differences + weight * labelled,
        confidence,
        doubt,
        weight,
        flips=flips,
        output=output,
        before=float(right[0].mean()),
        after=float(right[1].mean()),
        labelled=float(labelled.mean()),
        labelled_low=float(labelled.mean() - z * labelled.std(ddof=1) / root),
    )


def leading(logits: Scores, count: int) -> NDArray[np.int64]:
    """The `count` largest classes of each row, in no order but for one; logits (n, classes) -> (n, count)."""
    if count == 1:
        return np.asarray(logits.argmax(axis=1)[:, None])
    return np.asarray(np.argpartition(-logits, count - 1, axis=1)[:, :count])


def _bounded(
    metric: str, estimator: str, differences: Scores, confidence: float, doubt: float, weight: float, **more: Any
) -> Drop:
    careful = np.append(differences, 1.0)
    drawn = upper_mean(careful, confidence) - float(careful.mean())
    bound = float(careful.mean()) + math.hypot(drawn, normal_quantile(confidence) * (1 - weight) * doubt)
    n, mean, deviation = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    return Drop(metric, estimator, mean, bound, confidence, n, deviation, doubt=doubt, weight=weight, **more)


def agreement_drop(before: Scores, after: Scores, confidence: float, output: str = "") -> Drop:
    """Share of samples whose top-1 differs from the original's; exact binomial bound (Clopper & Pearson, 1934)."""
    from scipy.special import betaincinv

    n = len(before)
    flipped = int((before.argmax(axis=1) != after.argmax(axis=1)).sum())
    share = flipped / n
    bound = 1.0 if flipped == n else float(betaincinv(flipped + 1, n - flipped, confidence))
    spread = math.sqrt(share * (1 - share))
    return Drop(
        "agreement",
        "share that differs",
        share,
        bound,
        confidence,
        n,
        spread,
        1.0,
        1 - share,
        flips=share,
        output=output,
    )


def score_drop(metric: str, before: Scores, after: Scores, confidence: float, estimator: str, output: str = "") -> Drop:
    """Drop of a per-sample score of which more is better; (n,) each."""
    differences = before - after
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    bound = upper_mean(differences, confidence)
    values = (float(before.mean()), float(after.mean()))
    return Drop(metric, estimator, mean, bound, confidence, len(before), deviation, *values, output=output)


def psnr(have: NDArray[Any], want: NDArray[Any], peak: float) -> Scores:
    """Peak signal-to-noise ratio of each sample, dB; arrays (n, ...)."""
    error = np.square(have.astype(np.float64) - want.astype(np.float64)).reshape(len(have), -1).mean(axis=1)
    return np.asarray(10 * np.log10(peak**2 / np.maximum(error, 1e-20)))


def assumed_psnr_drop(have: NDArray[Any], want: NDArray[Any], peak: float) -> Scores:
    """What each sample would lose against the truth if the original reached ASSUMED_PSNR there, and the change
    had nothing to do with the original's own error: 10 log10(1 + change / error), dB."""
    change = np.square(have.astype(np.float64) - want.astype(np.float64)).reshape(len(have), -1).mean(axis=1)
    return np.asarray(10 * np.log10(1 + change / (peak**2 * 10 ** (-ASSUMED_PSNR / 10))))


def relative_error(have: NDArray[Any], want: NDArray[Any]) -> Scores:
    """Root mean square of the change of each sample, relative to the spread of the original's values there."""
    want64 = want.astype(np.float64).reshape(len(want), -1)
    change = have.astype(np.float64).reshape(len(have), -1) - want64
    spread = want64.std(axis=1)
    scale = np.where(spread > 0, spread, np.maximum(np.abs(want64).max(axis=1, initial=0.0), 1e-30))
    return np.asarray(np.sqrt(np.square(change).mean(axis=1)) / scale)


def peak_of(values: NDArray[Any]) -> float:
    """The largest value that an image of this kind can have: 1, 255, or what is there."""
    largest = float(np.abs(values).max(initial=0.0))
    return 1.0 if largest <= 2.0 else 255.0 if 16.0 < largest <= 400.0 else largest
