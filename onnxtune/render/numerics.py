"""A comparison of two models as text for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnxtune.numerics.difference import DATA, Difference
from onnxtune.numerics.origin import Origin
from onnxtune.numerics.result import Numerics
from onnxtune.render.console import console_for_output


def show(result: Numerics, *, verbose: int = 0, console: Console | None = None) -> None:
    """Print the verdict and one line for each output and level: its worst case, or with -v all cases."""
    out = console or console_for_output()
    out.print(headline(result), soft_wrap=True)
    for note in result.notes:
        out.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    for skipped in result.skipped:
        out.print(f"[yellow]left out:[/] {escape(skipped)}", soft_wrap=True)
    for failure in result.failures:
        out.print(f"[red]does not run:[/] {escape(failure)}", soft_wrap=True)
    worst = [result.worst(*pair) for pair in result.pairs]
    if result.differences:
        out.print(_table(list(result.differences) if verbose else worst, every=bool(verbose)))
    if result.origin is not None:
        for line in origin_lines(result.origin):
            out.print(line, soft_wrap=True)


def headline(result: Numerics) -> str:
    names = f"[bold]{escape(result.b)}[/] against [bold]{escape(result.a)}[/]"
    if result.within:
        return f"{names}: [bold green]within the tolerance[/] ({_fed(result)})"
    return f"{names}: [bold red]beyond the tolerance[/]: {escape(result.reason)}"


def _fed(result: Numerics) -> str:
    cases = dict.fromkeys(d.case for d in result.differences)
    samples = max((d.samples for d in result.differences if d.case == DATA), default=0)
    others = len(cases) - (DATA in cases)
    said = [f"{samples} sample{'s' * (samples != 1)}"] if DATA in cases else []
    said += [f"{others} kind{'s' * (others != 1)} of input"] if others else []
    return " and ".join(said)


def _table(rows: list[Difference], *, every: bool) -> Table:
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    ranks = any(d.top1 is not None for d in rows)
    table.add_column("output", overflow="fold")
    table.add_column("level", no_wrap=True)
    table.add_column("case" if every else "worst case", no_wrap=True)
    labels = any(d.accuracy_a is not None for d in rows)
    more = (*(("top-1", "top-5") if ranks else ()), *(("accuracy A", "B") if labels else ()))
    for name in ("max error", "mean", "relative", "SNR dB", *more, ""):
        table.add_column(name, justify="right", no_wrap=True)
    for d in rows:
        table.add_row(
            escape(d.output),
            d.level,
            escape(d.case),
            f"{d.maximum:.2g}",
            f"{d.mean:.2g}",
            f"{d.relative:.2g}",
            "equal" if d.differing == 0 else "-" if d.snr is None else f"{d.snr:.1f}",
            *((_share(d.top1), _share(d.top5)) if ranks else ()),
            *((_share(d.accuracy_a), _share(d.accuracy_b)) if labels else ()),
            "ok" if d.within else "[red]beyond[/]",
        )
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}" if value < 1 else "100%"


def origin_lines(found: Origin) -> list[str]:
    """Where the difference begins, in two lines."""
    makers = f"made by {found.made_by_a}" + ("" if found.made_by_a == found.made_by_b else f", in B {found.made_by_b}")
    before = ", ".join(f"'{t}'" for t in found.agreeing[:3]) + (", ..." if len(found.agreeing) > 3 else "")
    since = f"still the same before it: {before}" if before else "nothing that both have comes before it but the inputs"
    said = f": {found.reason}" if found.reason else ""
    return [
        f"First diverging tensor: [bold]{escape(found.tensor)}[/], {escape(makers)}{escape(said)}",
        f"  {escape(since)} ({found.compared} tensors correspond; {escape(found.case)}, level {found.level})",
    ]
