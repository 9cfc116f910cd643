"""Residual branches that add next to nothing.

y = x + f(x): where the energy of f(x) (its mean square) is below 1 % of that of x, the block passes on its
input. Its mean can be folded into a bias and the block dropped; what else it did is made up for by refitting
the layer after, or by a little training. Without samples the energy is known only where batch normalization
ends the branches (the mean square of a normalized channel is gamma^2 + beta^2), or where a branch is zero.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxtune.facts import Node
from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK502",
    name="near-dead-branch",
    summary="Residual branches that add next to nothing",
    severity="advice",
    remedy="retrain",
    action="drop the blocks and train on for a little",
    fires="what a residual branch adds has less than 1 % of the energy of what it is added to, on"
    " --calibration-data or by the"
    " scales of batch normalization",
    quiet="branches of ordinary energy, and those of which nothing is known",
    guidelines=(11,),
    items=("A14",),
    rules=("remove_dead_channels",),
    references=("Veit, Wilber, Belongie: Residual networks behave like ensembles, 2016",),
)
SMALL = 0.01


def find(scene: Scene) -> Iterator[Found]:
    dead: list[tuple[float, Node]] = []
    for node in _sums(scene):
        energies = [_energy(scene, i) for i in node.inputs]
        if None in energies or max(e for e in energies if e is not None) <= 0:
            continue
        low, high = sorted(e for e in energies if e is not None)
        branch = node.inputs[int(np.argmin([e or 0.0 for e in energies]))]
        if low / high < SMALL and _residual(scene, node, branch):
            dead.append((low / high, node))
    if dead:
        dead.sort(key=lambda pair: pair[0])
        zero = scene.seen is None and all(ratio == 0 for ratio, _ in dead)
        known = "on your samples" if scene.seen is not None else "by their scales"
        what = several(len(dead), "residual branch", "residual branches")
        yield Found(
            f"{what}: all zero"
            if zero
            else f"{what} with, {known}, as little as {dead[0][0]:.1e} of the energy of what is passed on beside",
            tuple(node for _, node in dead),
            {"energies": [round(ratio, 8) for ratio, _ in dead]},
            remedy="optimize" if zero else None,
            action="they are removed, exactly" if zero else None,
        )


def asks(scene: Scene) -> set[str]:
    """Tensors that the user's samples are asked about."""
    return {i for node in _sums(scene) for i in node.inputs}


def _sums(scene: Scene) -> Iterator[Node]:
    facts = scene.facts
    for node in facts.nodes:
        if not node.is_op("Add") or any(facts.is_constant(i) for i in node.inputs):
            continue
        known = {size for i in node.inputs if (size := facts.size(i)) is not None}
        if len(known) <= 1 and all(len(size) == 4 for size in known) and _convolved(scene, node):
            yield node


def _convolved(scene: Scene, node: Node) -> bool:
    """Where sizes are unknown: does a convolution or its normalization make an operand?"""
    makers = [scene.facts.producer(i) for i in node.inputs]
    sized = any(scene.facts.size(i) is not None for i in node.inputs)
    return sized or any(m is not None and m.is_op("Conv", "BatchNormalization") for m in makers)


def _residual(scene: Scene, node: Node, branch: str) -> bool:
    """Does the branch begin at the other operand, or where that begins, with a convolution on its way?"""
    other = next((i for i in node.inputs if i != branch), branch)
    seen, todo, convolved = {branch}, [branch], False
    for _ in range(64):
        if not todo:
            break
        maker = scene.facts.producer(todo.pop())
        if maker is None:
            continue
        convolved = convolved or maker.is_op("Conv")
        for tensor in maker.inputs:
            if tensor and tensor not in seen and not scene.facts.is_constant(tensor):
                seen.add(tensor)
                todo.append(tensor)
    source = scene.facts.producer(other)
    return convolved and (other in seen or (source is not None and any(i in seen for i in source.inputs)))


def _energy(scene: Scene, tensor: str, depth: int = 0) -> float | None:
    """Mean square of a tensor: as seen on the samples, else by the scales of normalization; None when unknown."""
    if scene.seen is not None and tensor in scene.seen:
        return scene.seen[tensor][1]
    facts, node = scene.facts, scene.facts.producer(tensor)
    if node is None or depth > 200:
        return None
    if node.is_op("BatchNormalization"):
        scale, shift = facts.constant(node.input(1)), facts.constant(node.input(2))
        if scale is None or shift is None:
            return None
        return float(np.mean(scale.astype(np.float64) ** 2 + shift.astype(np.float64) ** 2))
    if node.is_op("Conv"):
        weight = facts.constant(node.input(1))
        bias = facts.constant(node.input(2)) if node.input(2) else None
        if weight is not None and not weight.any():
            return 0.0 if bias is None else float(np.mean(bias.astype(np.float64) ** 2))
        return None
    if node.is_op("Relu", "Clip"):
        inner = _energy(scene, node.input(0), depth + 1)
        return None if inner is None else inner / 2
    if node.is_op("Add") and len(node.inputs) == 2:
        parts = [_energy(scene, i, depth + 1) for i in node.inputs]
        return None if None in parts else sum(p for p in parts if p is not None)
    return None
