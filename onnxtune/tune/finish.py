"""The end of a run: the report, and the model stamped with how it came to be."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from onnxtune import provenance
from onnxtune.comparison import Comparison
from onnxtune.costs import total_macs
from onnxtune.facts import Facts
from onnxtune.memory import peak_bytes
from onnxtune.model import Model, tensor_bytes
from onnxtune.report import Kept, ModelSummary, Rejected, Report, Status, describe
from onnxtune.runtime import versions
from onnxtune.sizes import bind_tensors
from onnxtune.steps import Step
from onnxtune.tune.options import Options
from onnxtune.tune.run import Run
from onnxtune.tune.wording import why_kept

LOG = logging.getLogger(__name__)
OWN = "this model is onnxtune's own result under the same settings"


def finish(
    run: Run, result: Model, status: Status, comparison: Comparison | None, wholes: list[Kept], steps: Sequence[Step]
) -> tuple[Model, Report]:
    kept = [Kept(describe(s.proposal), s.comparison, s.error, why_kept(s), *s.drawn) for s in steps]
    changed = bool(wholes or kept)
    took_place = {k.rewrite.key for k in (*wholes, *kept)}
    others = [o for o in run.journal.outcomes if not (isinstance(o, Rejected) and o.rewrite.key in took_place)]
    outcomes = (*wholes, *kept, *others)
    verdict = run.verifier.verify(result) if wholes and not steps else run.verdict
    for row in (*wholes, *kept):
        LOG.info("%s: %s is kept (%s)", row.rewrite.rule, row.rewrite.title, row.reason)
    LOG.info("%s: %s", run.original.name, status)
    report = Report(
        model=run.original.name,
        status=status,
        before=_summary(run.facts),
        after=_summary(run.facts_of(result)) if changed else _summary(run.facts),
        comparison=comparison,
        outcomes=outcomes,
        verification={
            "cases": list(run.verifier.cases),
            "levels": list(run.verifier.levels),
            "largest_relative_error": verdict.error if changed else 0.0,
        },
        notes=tuple(run.notes),
        environment={**versions(), "device": run.target.device, "provider": run.target.provider},
        settings={**run.settings, "measured_sizes": {k: list(v) for k, v in run.sizes.items()}},
        seconds=dict(run.seconds),
        calibration=run.fronts,
        source_sha256=run.original.graph_sha256(),
    )
    entries: dict[str, Any] = {
        "source_sha256": report.source_sha256,
        "rules": dict(report.counts()),
        "settings": run.settings,
        "speedup": None if comparison is None else round(comparison.speedup, 3) if changed else 1.0,
    }
    if run.calibration is not None:
        entries["calibration_sha256"] = run.settings["calibration"]["sha256"]
    return provenance.stamp(result, entries), report


def _summary(facts: Facts) -> ModelSummary:
    operators = Counter(n.op_type for n in facts.nodes)
    return ModelSummary(
        len(facts.nodes), tensor_bytes(facts.model), total_macs(facts), dict(operators), peak_bytes(facts)
    )


def untouched(model: Model, settings: Mapping[str, Any], options: Options, status: Status, note: str) -> Report:
    """The report on a model that comes back at once; `note` says why."""
    LOG.info("%s: %s (%s)", model.name, status, note)
    summary = _summary(Facts(model, bind_tensors(model, options.sizes).sizes))
    return Report(
        model=model.name,
        status=status,
        before=summary,
        after=summary,
        comparison=None,
        outcomes=(),
        verification={},
        notes=(note,),
        environment=versions(),
        settings=settings,
        seconds={},
        source_sha256=model.graph_sha256(),
    )
