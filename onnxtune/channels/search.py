"""Which channel counts to try: coordinate descent over the runs, since a convolution's cost couples two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnxtune.channels.cost import Costs, rounded
from onnxtune.channels.flow import Run
from onnxtune.errors import RuleError

Options = Mapping[int, Sequence[int]]
"""Run -> sizes it may take, its present size among them, ascending."""
Choice = Mapping[int, int]
"""Run -> its new number of channels."""
MOST = 14
"""Attempts per model: each one is measured."""


def aligned_options(costs: Costs, runs: Sequence[Run]) -> dict[int, list[int]]:
    """For each run the sizes that align it, or align a Concat that it is part of."""
    step = costs.target.multiple(costs.half)
    steps = {step, costs.target.block or step}
    options = {}
    for run in runs:
        sizes = {run.size, *(rounded(run.size, s) for s in steps)}
        for term in costs.terms[run.index]:
            for width in (term.into, term.out):
                if dict(width.grows).get(run.index) == 1:
                    sizes.update(run.size + rounded(width.size, s) - width.size for s in steps)
        options[run.index] = sorted(sizes)
    return options


def descend(costs: Costs, options: Options, overhead: float) -> dict[int, int]:
    """Sizes (of the runs that change) with the least cost that single changes can reach.

    From two starts: everything as it is, and everything at its first larger size.
    """
    starts: list[dict[int, int]] = [{}, {}]
    for run, sizes in options.items():
        larger = next((s for s in sizes if s > costs.channels.runs[run].size), None)
        if larger is not None and costs.allowed(run, costs.extra({**starts[1], run: larger}), overhead):
            starts[1][run] = larger
    ends = [_descend(costs, options, overhead, start) for start in starts]
    return max(ends, key=costs.gain)


def _descend(costs: Costs, options: Options, overhead: float, start: Mapping[int, int]) -> dict[int, int]:
    extra = costs.extra(start)
    waiting = dict.fromkeys(options)
    budget = 20 * len(options)  # each change lowers the cost, so it ends; this bounds the time
    while waiting and budget:
        budget -= 1
        run = next(iter(waiting))
        del waiting[run]
        now, size = extra.get(run, 0), costs.channels.runs[run].size
        best, least = now, costs.total({run: 0}, extra)
        for candidate in options[run]:
            extra[run] = candidate - size
            if extra[run] != now and costs.allowed(run, extra, overhead):
                cost = costs.total({run: 0}, extra)
                if cost < least * (1 - 1e-9):
                    best, least = candidate - size, cost
        extra[run] = best
        if best != now:
            around = (r for t in costs.terms[run] for w in (t.into, t.out) for r, _ in w.grows)
            waiting.update((r, None) for r in around if r in options and r != run)
    return {run: costs.channels.runs[run].size + more for run, more in extra.items() if more}


def policy_step(policy: str) -> int:
    """N of the policy "multiple:N", 0 for "pow2". Raises RuleError for others."""
    kind, _, number = policy.partition(":")
    if kind == "multiple" and number.isdecimal() and int(number) > 0:
        return int(number)
    if policy != "pow2":
        raise RuleError(f"rule pad_channels: setting 'policy' is '{policy}'; use auto, multiple:N or pow2")
    return 0


def rounded_up(
    costs: Costs, runs: Sequence[int], overhead: float, step: int, given: Mapping[int, int] | None = None
) -> dict[int, int]:
    """Every run at its next multiple of `step` (0: next power of two), where the overhead allows it.

    `given`: other runs whose sizes are chosen already.
    """
    sizes: dict[int, int] = dict(given or {})
    for run in runs:
        now = costs.channels.runs[run].size
        size = rounded(now, step) if step else 1 << (now - 1).bit_length()
        tried = {**sizes, run: size}
        if size > now and costs.allowed(run, costs.extra(tried), overhead):
            sizes = tried
    return sizes


def groups(costs: Costs, sizes: Mapping[int, int]) -> list[dict[int, int]]:
    """The changed runs in sets whose regions do not overlap."""
    leader = {run: run for run in sizes}

    def find(run: int) -> int:
        while leader[run] != run:
            leader[run] = leader[leader[run]]
            run = leader[run]
        return run

    owner: dict[str, int] = {}
    for run in sizes:
        for node in costs.channels.touching[run]:
            leader[find(run)] = find(owner.setdefault(node.key, run))
    found: dict[int, dict[int, int]] = {}
    for run, size in sizes.items():
        found.setdefault(find(run), {})[run] = size
    return list(found.values())


def attempts(
    costs: Costs, chosen: Choice, cutting: Choice, others: Sequence[Choice], least: float = 0.0
) -> Iterator[dict[int, int]]:
    """Connected classes together, most promising first; with classes that end at a border (a barrier, a caller);
    other sizes for them; then each class alone, where the model expects a gain above `least`."""
    together = sorted(groups(costs, chosen), key=costs.gain, reverse=True)
    yield from together[: MOST // 2]
    at_borders = [sizes for sizes in groups(costs, cutting) if any(costs.copies[run] for run in sizes)]
    yield from sorted(at_borders, key=costs.gain, reverse=True)[: MOST // 4]
    for sizes in together[: MOST // 4]:
        yield from (less for other in others if (less := {run: other[run] for run in sizes if run in other}))
    alone = [{run: size} for sizes in together if len(sizes) > 1 for run, size in sizes.items()]
    yield from sorted((s for s in alone if costs.gain(s) > least), key=costs.gain, reverse=True)
    yield from together[MOST // 2 :]
