"""The suite's results as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

PEERS = ("onnxsim", "onnxslim", "onnxoptimizer")
EXACT = "onnxtune exact"
COSTS = "What the contenders themselves took:"
Row = Mapping[str, Any]


def markdown(results: Row) -> str:
    """Speed-ups of all contenders, then the calibrated ones with their metric, then what the contenders cost."""
    rows = [m for m in results["models"] if "contenders" in m]
    return "\n".join([*_exact(results, rows), *_calibrated(rows), *_costs(rows), *_left_out(results)]) + "\n"


def line(row: Row) -> str:
    """One model in a line, while the suite runs."""
    if "skipped" in row:
        return f"{row['model']}: left out, {row['skipped']}"
    cells = [f"{name} {_shown(c)}" for name, c in row["contenders"].items() if name != "original"]
    return f"{row['model']}: {', '.join(cells)}"


def summary(results: Row) -> str:
    """Geometric means, and the models where a peer is ahead."""
    rows = [m for m in results["models"] if "contenders" in m]
    behind = [m for m in rows if m["against_best_peer"]["speedup"] < 0.98 and m["against_best_peer"]["high"] < 1]
    means = ", ".join(f"{n} {_mean(rows, n):.3f}x" for n in (*PEERS, EXACT))
    lines = [f"geometric mean of {len(rows)} models: {means}"]
    lines += [f"behind {m['against_best_peer']['peer']}: {m['model']} {_shown(m['against_best_peer'])}" for m in behind]
    for name in _calibrated_names(rows):
        large = [m for m in rows if m["large"] and name in m["contenders"]]
        lines.append(f"{name}: {_mean(large, name):.3f}x of {len(large)} models with large kernels or heads")
    return "\n".join(lines)


def setting(results: Row) -> str:
    threads = results["threads"]
    used = "all cores" if not threads else "1 thread" if threads == 1 else f"{threads} threads"
    machine = results["machine"]
    runtime = machine["versions"]["onnxruntime"]
    return f"{machine['cpu']['model']}, {used}, batch {results['batch']}, ONNX Runtime {runtime}"


def _exact(results: Row, rows: Sequence[Row]) -> list[str]:
    legend = (
        "Speed-up: median latency of the original (ORT_ENABLE_ALL) over the contender's; 99 % interval."
        " Bold: ahead of every other contender beyond the noise."
    )
    lines = [
        f"{setting(results)}. {legend}",
        "",
        f"| model | original, ms | {' | '.join(PEERS)} | onnxtune | largest error | rules |",
        "|---|---|" + "---|" * (len(PEERS) + 3),
    ]
    for m in rows:
        table, own = m["contenders"], m["contenders"][EXACT]
        cells = [f"{table[n]['speedup']:.2f}x" if n in table else "failed" for n in PEERS]
        shown = _shown(own)
        ahead = f"**{shown}**" if m["against_best_peer"]["verdict"] == "faster" else shown
        used = own["made"]["rules"].items()
        rules = ", ".join(f"{rule} x{count}" if count > 1 else rule for rule, count in used) or "none"
        median = 1e3 * table["original"]["median"]
        lines.append(f"| {m['model']} | {median:.2f} | {' | '.join(cells)} | {ahead} | {own['error']:.0e} | {rules} |")
    means = [f"{_mean(rows, n):.2f}x" for n in PEERS]
    return [*lines, f"| geometric mean | | {' | '.join(means)} | **{_mean(rows, EXACT):.2f}x** | | |", ""]


def _calibrated(rows: Sequence[Row]) -> list[str]:
    names = _calibrated_names(rows)
    rows = [m for m in rows if any(n in m["contenders"] for n in names)]
    if not rows:
        return []
    lines = [
        "Calibrated, with the metric on samples that calibration has not seen (share of right answers, or dB):",
        "",
        "| model | metric | original | contender | speed-up | metric after |",
        "|---|---|---|---|---|---|",
    ]
    for m in rows:
        for name in names:
            entry = m["contenders"].get(name)
            if entry is None:
                continue
            before, after = m["contenders"]["original"].get("score"), entry.get("score")
            lines.append(f"| {m['model']} | {m['metric']} | {before} | {name} | {_shown(entry)} | {after} |")
    for name in names:
        large = [m for m in rows if m["large"] and name in m["contenders"]]
        if large:
            lines.append(f"| geometric mean of large kernels and heads | | | {name} | {_mean(large, name):.2f}x | |")
    return [*lines, ""]


def _costs(rows: Sequence[Row]) -> list[str]:
    names = [n for n in (*PEERS, EXACT, *_calibrated_names(rows)) if any(n in m["contenders"] for m in rows)]
    lines = [
        COSTS,
        "",
        "| contender | seconds, median (largest) | peak memory, MB, median (largest) | failed |",
        "|---|---|---|---|",
    ]
    for name in names:
        made = [m["contenders"][name]["made"] for m in rows if name in m["contenders"]]
        seconds, peak = [f["seconds"] for f in made], [f["peak_bytes"] / 1e6 for f in made]
        failed = sum(name in m["failures"] for m in rows)
        lines.append(
            f"| {name} | {np.median(seconds):.1f} ({max(seconds):.1f}) | {np.median(peak):.0f} ({max(peak):.0f}) |"
            f" {failed} |"
        )
    failures = [f"- {m['model']}: {name}: {why}" for m in rows for name, why in m["failures"].items()]
    return [*lines, *(["", "Failures:", "", *failures] if failures else [])]


def _left_out(results: Row) -> list[str]:
    left = [f"- {m['model']}: {m['skipped']}" for m in results["models"] if "skipped" in m]
    return ["", "Left out:", "", *left] if left else []


def _calibrated_names(rows: Sequence[Row]) -> list[str]:
    return sorted({n for m in rows for n in m["contenders"] if " within " in n}, key=_budget)


def _budget(name: str) -> tuple[bool, float]:
    amount = name.split(" within ")[1]
    return amount.endswith("dB"), float(amount.rstrip("%dB "))


def _shown(entry: Row) -> str:
    return f"{entry['speedup']:.2f}x [{_number(entry['low'])}, {_number(entry['high'])}]"


_number: Callable[[float], str] = "{:.2f}".format


def _mean(rows: Sequence[Row], name: str) -> float:
    """Geometric; a contender that failed leaves the original."""
    return float(np.exp(np.mean([np.log(m["contenders"].get(name, {"speedup": 1.0})["speedup"]) for m in rows])))
