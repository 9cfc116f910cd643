"""Zero channels that make channel counts fit the kernels' blocks.

Let S embed the C channels of a class into n >= C places. The producer's weights become S W and S b, so
that the places without a channel are 0; what works on each channel alone (activations, pools,
BatchNormalization, residual sums...) commutes with S up to the values at those places; the consumer's
become V S^T, whose columns there are zero:

    V S^T f(S (W x + b)) = V f(W x + b)

because S^T S = I. Nothing but finite values is asked of f at the pads (0 * inf is NaN). All producers and
consumers of a class change together; `onnxtune.channels` finds the classes and writes the region.

A convolution's cost depends on both its channel counts, so sizes of neighbouring classes are chosen
together by coordinate descent over a cost model and proposed together; each class also alone. How slow
the code without blocks is differs between machines and map sizes: both ends of that are tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxtune.channels.cost import SLOWNESS, Costs, Target, rounded
from onnxtune.channels.flow import Channels, analyse
from onnxtune.channels.resized import resize
from onnxtune.channels.search import aligned_options, descend, groups, policy_step, rounded_up
from onnxtune.facts import Facts
from onnxtune.proposal import Decline, Proposal

NAME = "pad_channels"
MOST = 12
"""Proposals per model: each one is measured."""


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    channels = facts.once(analyse)
    target = Target.of(settings["provider"])
    doubtful, hopeful = (Costs(channels, target, slowness) for slowness in SLOWNESS)
    costs = hopeful
    others: tuple[Mapping[int, int], ...] = ()
    runs = [r for r in channels.runs if r.size >= settings["min_channels"] and costs.terms[r.index]]
    free = [r for r in runs if not r.reason]
    overhead = settings["max_overhead"]
    if settings["policy"] == "auto":
        options = aligned_options(costs, free)
        chosen = descend(hopeful, options, overhead)
        others = (descend(doubtful, options, overhead), rounded_up(costs, list(chosen), overhead, max(target.block, 8)))
    else:
        chosen = rounded_up(costs, [r.index for r in free], overhead, policy_step(settings["policy"]))
    tried: list[Mapping[int, int]] = []
    least = 0.0 if settings["policy"] == "auto" else float("-inf")
    for sizes in _candidates(costs, chosen, others, least):
        if sizes not in tried and len(tried) < MOST:
            tried.append(sizes)
            yield _proposal(costs, sizes, settings["policy"])
    step = costs.target.multiple(costs.half)
    reasons: dict[str, list[str]] = {}
    for run in runs:
        if run.size % step and run.size > step and run.index not in chosen:
            reason = run.reason or (
                f"the cost model expects nothing of {rounded(run.size, step)}"
                if settings["policy"] == "auto"
                else f"the policy's next size adds more than max_overhead ({overhead:g}) to a convolution"
            )
            reasons.setdefault(f"{run.size} channels: {reason}", []).append(run.tensor)
    for reason, tensors in reasons.items():
        yield Decline(NAME, tensors[0], reason + (f" (and {len(tensors) - 1} more)" if tensors[1:] else ""))


def _candidates(
    costs: Costs, chosen: Mapping[int, int], others: Sequence[Mapping[int, int]], least: float
) -> Iterator[dict[int, int]]:
    """Connected classes together, most promising first; then other sizes for them; then each class alone,
    where the model expects a gain above `least`."""
    together = sorted(groups(costs, chosen), key=costs.gain, reverse=True)
    yield from together[: MOST // 2]
    for sizes in together[: MOST // 4]:
        yield from (less for other in others if (less := {run: other[run] for run in sizes if run in other}))
    alone = [{run: size} for sizes in together if len(sizes) > 1 for run, size in sizes.items()]
    yield from sorted((s for s in alone if costs.gain(s) > least), key=costs.gain, reverse=True)
    yield from together[MOST // 2 :]


def _proposal(costs: Costs, sizes: Mapping[int, int], policy: str) -> Proposal:
    channels: Channels = costs.channels
    removes, fragment = resize(channels, channels.padded(sizes), NAME)
    classes = [
        {
            "tensor": channels.runs[run].tensor,
            "from": channels.runs[run].size,
            "to": size,
            "extra_macs": costs.extra_macs({run: size}),
        }
        for run, size in sorted(sizes.items())
    ]
    changes = dict.fromkeys(f"{c['from']} -> {c['to']}" for c in classes)
    title = f"channels {', '.join(changes)} ({len(classes)} class{'es' if len(classes) > 1 else ''})"
    settings = {"policy": policy, "channels": {str(c["tensor"]): c["to"] for c in classes}}
    details = {"classes": classes, "extra_macs": costs.extra_macs(sizes)}
    return Proposal(NAME, title, removes, fragment, settings=settings, details=details)
