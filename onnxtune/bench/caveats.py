"""What speaks against a measurement: each caveat with its numbers and a remedy. Pure functions of samples.

Times are seconds. `Caveat` is closed: whoever shows caveats can rely on these kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from onnxtune.measure import CLOCK_STEP

Array = NDArray[np.float64]

NOISE = 0.02
"""A/A noise from which a machine is called noisy."""
CUT = 0.1
"""Share of runs that other processes cut from which a machine is called noisy, too."""
SLOWING = 0.05
"""How much slower the end must be than the start to look like throttling."""
FAR = 1.5
"""Times the median from which a sample is an outlier, if it is also far outside the usual scatter."""
MANY = 0.02
"""Share of outliers that is worth a word."""
SLOW_START = 3.0
"""First run over median from which the first run is called slow."""


@dataclass(frozen=True)
class NoisyMachine:
    """Equal sessions differ by `noise` (0.03 = 3 %); other processes cut a share of `cut` of the runs; `load`:
    processes that ran or waited at the start."""

    noise: float
    cut: float = 0.0
    load: float | None = None

    @property
    def text(self) -> str:
        load = "" if self.load is None else f" (load average {self.load:.1f})"
        cut = f"; other programs cut {self.cut:.0%} of the runs, which do not count" if self.cut else ""
        return f"noisy machine{load}: two sessions of the same model differ by up to {self.noise:.1%}{cut}"

    @property
    def remedy(self) -> str:
        return "close other programs, or measure longer with --duration"


@dataclass(frozen=True)
class Throttling:
    """All models together got slower by `slowdown` (0.1 = 10 %) from the first to the last third of the measurement."""

    slowdown: float

    @property
    def text(self) -> str:
        return f"throttling: everything was {self.slowdown:.0%} slower at the end than at the start"

    @property
    def remedy(self) -> str:
        return "let the machine cool down, or fix its clock (cpupower frequency-set, nvidia-smi -lgc)"


@dataclass(frozen=True)
class TooFast:
    """One inference takes `median` seconds, so that a sample is the mean of `repeats`."""

    model: str
    median: float
    repeats: int

    @property
    def text(self) -> str:
        return (
            f"{self.model}: too fast for the clock: an inference takes {1e6 * self.median:.3g} microseconds; each"
            f" sample is the mean of {self.repeats}, percentiles are of these means"
        )

    @property
    def remedy(self) -> str:
        return "measure a larger --batch or input; the call itself costs some 10 microseconds"


@dataclass(frozen=True)
class Outliers:
    """`share` of the samples are far above the median; the worst takes `worst` times as long."""

    model: str
    share: float
    worst: float

    @property
    def text(self) -> str:
        return f"{self.model}: outliers: {self.share:.1%} of the runs far above the median, the worst {self.worst:.1f}x"

    @property
    def remedy(self) -> str:
        return "medians hold; for mean and p99 close other programs or raise the process's priority"


@dataclass(frozen=True)
class FirstRunSlow:
    """The first inference of a session took `first` seconds, the median `median`."""

    model: str
    first: float
    median: float

    @property
    def text(self) -> str:
        return (
            f"{self.model}: first run slow: {1e3 * self.first:.3g} ms, {self.first / self.median:.1f}x the median;"
            " it is not in the figures"
        )

    @property
    def remedy(self) -> str:
        return "run the deployed model once before it serves"


@dataclass(frozen=True)
class Unsteady:
    """The times had not become steady after `seconds` of warming up."""

    model: str
    seconds: float

    @property
    def text(self) -> str:
        return f"{self.model}: never became steady in {self.seconds:.1f} s of warming up"

    @property
    def remedy(self) -> str:
        return "give more with --warmup MS, or close other programs"


@dataclass(frozen=True)
class Oversubscribed:
    """`threads` of a session, beside `load` other running processes, on `cores` cores."""

    threads: int
    load: float
    cores: int

    @property
    def text(self) -> str:
        return (
            f"thread oversubscription: {self.threads} threads beside a load of {self.load:.1f} on {self.cores} cores:"
            " threads wait for each other"
        )

    @property
    def remedy(self) -> str:
        return "fewer --threads, or close other programs"


@dataclass(frozen=True)
class OddValues:
    """`share` of the outputs' values are NaN, infinite or denormal: such numbers can slow a processor down."""

    model: str
    share: float

    @property
    def text(self) -> str:
        return (
            f"{self.model}: odd values: {self.share:.0%} of the outputs are NaN, infinite or denormal on these inputs"
        )

    @property
    def remedy(self) -> str:
        return "measure on real inputs with --data FILE.npz"


Caveat = NoisyMachine | Throttling | TooFast | Outliers | FirstRunSlow | Unsteady | Oversubscribed | OddValues
KINDS: tuple[type[Caveat], ...] = get_args(Caveat)


def as_json(caveat: Caveat) -> dict[str, Any]:
    """Kind, numbers, text and remedy."""
    kind = type(caveat).__name__
    return {"kind": kind, **asdict(caveat), "text": caveat.text, "remedy": caveat.remedy}


def of_model(name: str, samples: Array, repeats: int, first: float, odd: float) -> Iterator[Caveat]:
    """Caveats of one model: samples (n,), the first run in seconds, the share of odd values in its outputs."""
    median = float(np.median(samples))
    if repeats > 1 and median < CLOCK_STEP:
        yield TooFast(name, median, repeats)
    share, worst = outliers(samples)
    if share > MANY:
        yield Outliers(name, share, worst)
    if first > SLOW_START * median:
        yield FirstRunSlow(name, first, median)
    if odd > 0.01:
        yield OddValues(name, odd)


def outliers(samples: Array) -> tuple[float, float]:
    """(share of samples over `FAR` medians and ten median deviations above the median, worst over median)."""
    median = float(np.median(samples))
    deviation = float(np.median(np.abs(samples - median)))
    beyond = samples > max(FAR * median, median + 10 * deviation)
    return float(beyond.mean()), float(samples.max() / median)


def throttling(times: Array) -> Throttling | None:
    """Does everything get slower? `times`: (blocks, ...), at least six blocks; nothing is said of fewer.

    The last third of the blocks must be slower than the first by more than `SLOWING`, and by more than blocks scatter.
    """
    places = np.log(np.nanmedian(times.reshape(len(times), -1), axis=1))
    third = len(places) // 3
    if third < 2:
        return None
    start, end = places[:third], places[-third:]
    rise = float(np.median(end) - np.median(start))
    scatter = float(np.ptp(start) + np.ptp(end)) / 2
    return Throttling(float(np.expm1(rise))) if rise > max(np.log1p(SLOWING), scatter) else None


def oversubscribed(threads: int, load: float | None, cores: int) -> Oversubscribed | None:
    """More threads than cores, or so many others that ours have to wait."""
    busy = load or 0.0
    crowded = threads > cores or (threads > 1 and busy + threads > 1.5 * cores)
    return Oversubscribed(threads, busy, cores) if crowded else None


def odd_share(outputs: Mapping[str, NDArray[Any]]) -> float:
    """Share of the floating-point values that are NaN, infinite or denormal."""
    odd = count = 0
    for value in outputs.values():
        if value.dtype.kind == "f":
            size = np.abs(value)
            odd += int(np.count_nonzero(~np.isfinite(value) | ((size > 0) & (size < np.finfo(value.dtype).tiny))))
            count += value.size
    return odd / count if count else 0.0
