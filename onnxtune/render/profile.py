"""A profile as a table for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnxtune.bench.profile import Layer, Profile
from onnxtune.render.console import console_for_output

BEYOND = 1.3
"""Share of the limit from which it needs an explanation."""
SHOWN = 20
"""Rows before the rest is only counted (all with -v)."""


def show(profile: Profile, *, verbose: int = 0, console: Console | None = None) -> None:
    """The slowest nodes first, then what is the runtime's own, then the device's peaks."""
    out = console or console_for_output()
    ranked = sorted(profile.layers, key=lambda x: -x.seconds)
    limit = len(ranked) if verbose else SHOWN
    out.print(f"Where the time of [bold]{escape(profile.model)}[/] goes ({profile.runs} runs; {profile.how})")
    out.print(_table(ranked[:limit]))
    if len(ranked) > limit:
        rest = sum(x.share for x in ranked[limit:])
        out.print(f"... and {len(ranked) - limit} more nodes, {rest:.1%} of the time (-v shows all)")
    for line in summary(profile):
        out.print(line, soft_wrap=True)


def summary(profile: Profile) -> list[str]:
    """What is the runtime's own, what lies between nodes, and the limits."""
    own = sum(x.share for x in profile.layers if x.own)
    limits = profile.roofline
    run = (
        f"One run under the profiler: {1e3 * profile.total:.3f} ms, of which {own:.1%} in nodes of ONNX Runtime's own"
        f" and {profile.between / profile.total:.1%} between nodes"
    )
    peaks = (
        f"The device's limits, measured: {limits.flops / 1e9:.0f} GFLOP/s ({limits.dtype} matrix product),"
        f" {limits.bandwidth / 1e9:.1f} GB/s (copies); from {limits.flops / limits.bandwidth:.0f} FLOP per byte on"
        " a node is compute-bound"
    )
    lines = [run, peaks]
    if profile.of_limit is not None:
        lines.append(f"At its limits the device would need {profile.of_limit:.0%} of this time for the model's nodes")
    if any((x.of_limit or 0) > BEYOND and x.share > 0.01 for x in profile.layers if x.bound == "compute"):
        lines.append(
            "Some nodes are well beyond the limit: a fast convolution algorithm (Winograd), 8-bit arithmetic, or other"
            " work on this machine while the limits were measured"
        )
    return lines


def _table(rows: list[Layer]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("node", overflow="fold", ratio=1)
    for name in ("ms", "share", "GFLOP/s", "GB/s", "of limit", "bound by"):
        table.add_column(name, justify="right", no_wrap=True)
    for x in rows:
        table.add_row(
            escape(title(x)),
            f"{1e3 * x.seconds:.3f}",
            f"{x.share:.1%}",
            f"{x.gflops:.1f}" if x.flops else "",
            "" if x.gbytes is None else f"{x.gbytes:.1f}",
            "" if x.of_limit is None else f"{x.of_limit:.0%}",
            x.bound or "",
        )
    return table


def title(layer: Layer) -> str:
    """The model's nodes that a row stands for: the first by name, what is fused with it by its operator alone."""
    if layer.own:
        return f"({layer.op_type} of the runtime" + (f", for {layer.serves})" if layer.serves else ")")
    operators = [n.partition(" ")[0] for n in layer.nodes]
    heavy = next((i for i, op in enumerate(operators) if layer.op_type.endswith(op)), len(operators) - 1)
    others = [op for i, op in enumerate(operators) if i != heavy]
    name = layer.nodes[heavy].replace("'", "")
    made = [f"/{rule}/" for rule in layer.rewrites if f"/{rule}/" in name]
    if made:  # a rule's names hold the place and the rules, one after the other: the place and the end tell enough
        name = f"{name[: min(name.index(m) for m in made)]}/../{name.rpartition('/')[2]}"
    text = name + (f" + {' + '.join(others)}" if others else "")
    return text + (f" [{', '.join(layer.rewrites)}]" if layer.rewrites else "")
