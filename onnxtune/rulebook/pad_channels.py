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
the code without blocks is differs between machines and map sizes: both ends of that are tried, and the next
larger block and powers of two besides.

A class that ends at a barrier (an operator that may mix channels, a graph output) or begins at one grows, too, where
the model expects more than what a copy costs: the barrier then reads S^T y, a Slice, or a Pad makes S x.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnxtune.channels.cost import SLOWNESS, Costs, Target, rounded
from onnxtune.channels.flow import Channels, Run, analyse_cutting
from onnxtune.channels.resized import resize
from onnxtune.channels.search import MOST, Choice, aligned_options, attempts, descend, policy_step, rounded_up
from onnxtune.facts import Facts
from onnxtune.proposal import Decline, Proposal

NAME = "pad_channels"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    channels, target = facts.once(analyse_cutting), Target.of(settings["provider"])
    doubtful, hopeful = (Costs(channels, target, slowness) for slowness in SLOWNESS)
    runs = [r for r in channels.runs if r.size >= settings["min_channels"] and hopeful.terms[r.index]]
    free = [r for r in runs if not r.reason and not hopeful.copies[r.index]]
    at_borders = [r for r in runs if not r.reason and hopeful.copies[r.index]]
    policy, overhead = settings["policy"], settings["max_overhead"]
    if policy == "auto":
        options = aligned_options(hopeful, free)
        chosen = descend(hopeful, options, overhead)
        cutting = descend(hopeful, {**options, **aligned_options(hopeful, at_borders)}, overhead)
        steps = (target.larger(hopeful.half), 0)
        others = [descend(doubtful, options, overhead)] + [rounded_up(hopeful, [*chosen], overhead, s) for s in steps]
        tries = attempts(hopeful, chosen, cutting, others)
    else:
        step = policy_step(policy)
        chosen = rounded_up(hopeful, [r.index for r in free], overhead, step)
        more = rounded_up(hopeful, [r.index for r in at_borders], overhead, step, chosen)
        pays = {
            r: n for r, n in more.items() if r not in chosen and hopeful.gain({**chosen, r: n}) > hopeful.gain(chosen)
        }
        cutting = {**chosen, **pays}
        tries = iter([chosen, *attempts(hopeful, chosen, cutting, [], least=float("-inf"))])
    tried: list[Choice] = []
    for sizes in tries:
        if sizes and sizes not in tried and len(tried) < MOST:
            tried.append(sizes)
            yield _proposal(hopeful, sizes, policy)
    for run in runs:
        reason = _why_not(hopeful, run, settings)
        if reason and run.index not in chosen and run.index not in cutting:
            yield Decline(NAME, run.tensor, f"{run.size} channels: {reason}")


def _why_not(costs: Costs, run: Run, settings: Mapping[str, Any]) -> str:
    """Why a class was not padded; "" when its number fits as it is."""
    step = costs.target.multiple(costs.half)
    if run.size % step == 0 or run.size <= step:
        return ""
    if run.reason:
        return run.reason
    if costs.copies[run.index]:
        border = costs.channels.cuts[min(costs.copies[run.index])]
        return f"{border}, and a copy there would cost more than the cost model expects of {rounded(run.size, step)}"
    if settings["policy"] == "auto":
        return f"the cost model expects nothing of {rounded(run.size, step)}"
    return f"the policy's next size adds more than max_overhead ({settings['max_overhead']:g}) to a convolution"


def _proposal(costs: Costs, sizes: Choice, policy: str) -> Proposal:
    channels: Channels = costs.channels
    removes, fragment = resize(channels, channels.padded(sizes), NAME)
    classes = [
        {
            "tensor": channels.runs[run].tensor,
            "from": channels.runs[run].size * channels.runs[run].times,
            "to": size * channels.runs[run].times,
            "extra_macs": costs.extra_macs({run: size}),
        }
        for run, size in sorted(sizes.items())
    ]
    changes = dict.fromkeys(f"{c['from']} -> {c['to']}" for c in classes)
    copied = sorted({tensor for run in sizes for tensor in costs.copies[run]})
    title = f"channels {', '.join(changes)} ({len(classes)} class{'es' if len(classes) > 1 else ''})"
    title += f", copied at {', '.join(copied)}" if copied else ""
    settings = {"policy": policy, "channels": {str(c["tensor"]): c["to"] for c in classes}}
    details = {"classes": classes, "extra_macs": costs.extra_macs(sizes), "copied": copied}
    return Proposal(NAME, title, removes, fragment, settings=settings, details=details)
