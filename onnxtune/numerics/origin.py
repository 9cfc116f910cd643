"""Where two models begin to differ: the first tensor that both have and that is not the same any more.

Tensors correspond when both graphs make one of that name, type and size. In the first graph's order, cut down to what
the differing output depends on in both, the place is found by bisection; as a difference may also vanish on its way
(a Relu hides it), the tensor found is then held against its nearest corresponding ancestors, and the search goes on
above when one of them differs. A tensor that differs while all that follows from it agrees only shares its name (the
output of a convolution that has taken in its BatchNormalization, say): it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from onnxtune.calibrate.capture import exposing
from onnxtune.errors import ModelError
from onnxtune.facts import Facts
from onnxtune.feeds import Case
from onnxtune.model import Model
from onnxtune.runtime import CPU, Level, Session, Target
from onnxtune.verify import Tolerance, check, movement


@dataclass(frozen=True)
class Origin:
    """The first diverging tensor: who makes it in A and in B, how far it lies apart, on which case and level.

    `agreeing`: the nearest tensors before it that both models have and that are the same; empty: the inputs.
    `compared`: how many corresponding tensors lead to the output.
    """

    tensor: str
    made_by_a: str
    made_by_b: str
    case: str
    level: Level
    reason: str
    agreeing: tuple[str, ...]
    compared: int


Diverging = Callable[[Sequence[str]], dict[str, str]]
"""Of these tensors those that differ, and how; "" says that the two do not correspond."""


def origin(a: Facts, b: Facts, output: str, diverging: Diverging) -> tuple[str, tuple[str, ...], int]:
    """(first diverging tensor, its nearest agreeing ancestors, number of corresponding tensors).

    `output` is known to differ.
    """
    shared = ancestors(a, output) & ancestors(b, output) & _made(a) & _made(b)
    full = [o for n in a.nodes for o in n.outputs if o in shared and o != output]
    left_out: set[str] = set()

    def differ(tensors: Sequence[str]) -> list[str]:
        said = diverging(tensors)
        left_out.update(t for t, reason in said.items() if not reason)
        return [t for t, reason in said.items() if reason]

    def kept() -> list[str]:
        return [t for t in full if t not in left_out]

    while True:
        found = _bisected([*kept(), output], differ, left_out)
        while True:
            above = nearest(a, found, kept())
            wrong = differ(above)
            if wrong:
                reach = ancestors(a, wrong[0]) - {wrong[0]}
                found = _bisected([*(t for t in kept() if t in reach), wrong[0]], differ, left_out)
            elif left_out.isdisjoint(above):
                break
        below = [t for t in (*kept(), output) if t != found and found in nearest(a, t, kept())]
        if found == output or not below or output in below or differ(below):
            return found, above, len(kept()) + 1
        left_out.add(found)


def _bisected(order: Sequence[str], differ: Callable[[Sequence[str]], list[str]], left_out: set[str]) -> str:
    """The first of the order that differs, as if all behind it did; the last is known to."""
    rest = list(order)
    low, high = 0, len(rest) - 1
    while low < high:
        middle = (low + high) // 2
        if differ([rest[middle]]):
            high = middle
        elif rest[middle] in left_out:
            del rest[middle]
            high -= 1
        else:
            low = middle + 1
    return rest[high]


def ancestors(facts: Facts, tensor: str) -> set[str]:
    """Everything that the tensor is computed from, itself included."""
    found: set[str] = set()
    wave = [tensor]
    while wave:
        name = wave.pop()
        if name and name not in found:
            found.add(name)
            node = facts.producer(name)
            wave += [*node.inputs, *node.captured] if node else []
    return found


def nearest(facts: Facts, tensor: str, among: Iterable[str]) -> tuple[str, ...]:
    """The tensors of `among` that are met first on the ways up from a tensor."""
    wanted, found, seen = set(among), dict[str, None](), {tensor}
    start = facts.producer(tensor)
    wave = [*start.inputs, *start.captured] if start else []
    while wave:
        name = wave.pop()
        if name in wanted:
            found[name] = None
        elif name and name not in seen:
            seen.add(name)
            node = facts.producer(name)
            wave += [*node.inputs, *node.captured] if node else []
    return tuple(found)


def _made(facts: Facts) -> set[str]:
    """Tensors that a node makes and whose type is known: they can be looked at."""
    return {o for n in facts.nodes for o in n.outputs if o and not facts.is_constant(o) and facts.dtype(o) is not None}


class Probe:
    """Looks at intermediate tensors of both models on one case and level; what it has seen it remembers."""

    def __init__(
        self, a: Model, b: Model, case: Case, level: Level, target: Target, tolerance: Tolerance, seed: int
    ) -> None:
        self._models, self._case, self._level, self._target = (a, b), case, level, target
        self._tolerance, self._seed = tolerance, seed
        self._known: dict[str, str | None] = {}

    def diverging(self, tensors: Sequence[str]) -> dict[str, str]:
        new = [t for t in tensors if t not in self._known]
        if new:
            try:
                self._look(new)
            except ModelError:  # one of them cannot be looked at: which one is found alone
                for name in new if len(new) > 1 else ():
                    self.diverging([name])
                if len(new) == 1:
                    self._known[new[0]] = ""
        return {t: said for t in tensors if (said := self._known[t]) is not None}

    def _look(self, tensors: Sequence[str]) -> None:
        a, b = (exposing(m, tensors) for m in self._models)
        cpu, feeds = Target(CPU, {}, self._target.threads), self._case.feeds
        plain = Session(a, cpu, "disable")
        outputs = plain.run(feeds)
        deployed = Session(a, self._target, "all").run(feeds)
        moved = movement(plain, feeds, outputs, deployed, self._seed)
        want = outputs if self._level == "disable" else deployed
        have = Session(b, cpu if self._level == "disable" else self._target, self._level).run(feeds)
        for name in tensors:
            if (
                name not in have
                or name not in want
                or (have[name].shape, have[name].dtype) != (want[name].shape, want[name].dtype)
            ):
                self._known[name] = ""
            else:
                _, reason = check(name, want[name], have[name], moved[name], self._tolerance)
                self._known[name] = reason.replace("output ", "", 1) or None


def find_origin(
    a: Model, b: Model, output: str, case: Case, level: Level, target: Target, tolerance: Tolerance, seed: int
) -> Origin:
    """Bisect for the first diverging tensor before an output that differs on this case and level.

    Raises ModelError when the models do not run on the case.
    """
    facts = Facts(a), Facts(b)
    probe = Probe(a, b, case, level, target, tolerance, seed)
    tensor, agreeing, compared = origin(*facts, output, probe.diverging)
    made = [maker(f, tensor) for f in facts]
    reason = probe.diverging([tensor]).get(tensor, "")
    return Origin(tensor, made[0], made[1], case.name, level, reason, agreeing, compared)


def maker(facts: Facts, tensor: str) -> str:
    """`Conv 'name'`: the node that makes a tensor."""
    node = facts.producer(tensor)
    if node is None:
        return "an input"
    return f"{node.op_type} '{node.proto.name}'" if node.proto.name else node.op_type
