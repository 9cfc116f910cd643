"""Layers whose weights hardly use the channels they have.

Written as a matrix of C_out rows and C_in k^2 columns, a layer of rank r is r filters and a 1x1 convolution
after them: r (C_in k^2 + C_out) products instead of C_in k^2 C_out. The spectrum of the matrix says how much of
the weights' energy (the sum of squared singular values) r directions hold. Random weights need nearly all; a
trained layer that needs few for 99 % can be split, exactly where the rest is zero, refitted to data otherwise.
What counts in the end is the spectrum of the layer's output on real data, which is steeper still.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxtune.channels.cost import Target, rounded
from onnxtune.facts import Node
from onnxtune.finding import Check, Found
from onnxtune.scene import Scene

CHECK = Check(
    code="CK204",
    name="low-rank",
    summary="Layers whose weights are nearly of low rank",
    severity="advice",
    remedy="calibrate",
    action="split them at that rank and refit (with data); a bottleneck of 1x1 kernels when training anew",
    fires="99 % of a dense layer's weight energy lies in so few directions that two layers (of full blocks of"
    " channels) cost less"
    " than 60 % of it",
    quiet="layers with less than 1 % of the arithmetic, grouped ones, spectra that need more directions",
    guidelines=(10,),
    rules=("bottleneck_conv", "split_separable"),
    references=("Denton et al.: Exploiting linear structure within convolutional networks, 2014",),
)
ENERGY, EXACT = 0.99, 1 - 1e-12
LEAST_SHARE, LEAST_WIDTH, LARGEST = 0.01, 16, 16
"""Layers below these are not worth a look; as many as LARGEST are looked at."""
LEAST_BLOCK = 8
"""Channels between the two layers cost as if they were a multiple of the kernels' block."""
PAYS, LEAST_GAIN = 0.6, 0.02
"""Arithmetic that is left of a layer, and that is saved of the model, at which it is worth saying."""


def find(scene: Scene) -> Iterator[Found]:
    layers = [n for n in scene.convolutions if _candidate(scene, n)]
    block = max(Target.of(scene.provider).block, LEAST_BLOCK)
    layers.sort(key=lambda n: -scene.macs.get(n.key, 0))
    found: list[tuple[Node, int, int, float]] = []
    exact = True
    for node in layers[:LARGEST]:
        weight = scene.weight(node)
        if weight is None or weight.dtype not in (np.float32, np.float64):
            continue
        flat = weight.reshape(len(weight), -1)
        energies = _spectrum(flat)
        rank = int(np.searchsorted(np.cumsum(energies) / max(float(energies.sum()), 1e-300), ENERGY)) + 1
        ratio = rounded(rank, block) * sum(flat.shape) / flat.size
        if ratio < PAYS:
            found.append((node, rank, min(flat.shape), ratio))
            exact = exact and float(energies[rank:].sum()) <= (1 - EXACT) * float(energies.sum())
    if not found:
        return
    saved = sum(scene.share([node]) * (1 - ratio) for node, _, _, ratio in found)
    if saved < LEAST_GAIN:
        return
    first = found[0]
    which = first[0].proto.name or first[0].key
    example = f"{ENERGY:.0%} of its weights' energy in {first[1]} of {first[2]} directions"
    message = (
        f"{which} has {example}"
        if len(found) == 1
        else f"{len(found)} layers are nearly of low rank; {which} has {example}"
    )
    ranks = [{"node": n.proto.name or n.key, "rank": r, "of": full, "macs": round(q, 3)} for n, r, full, q in found]
    yield Found(
        message,
        tuple(n for n, *_ in found),
        {"layers": ranks, "exact": exact},
        1 - saved,
        details=tuple(f"{r['node']}: rank {r['rank']} of {r['of']}, {r['macs']:g} of its arithmetic" for r in ranks),
        remedy="optimize" if exact else None,
        action="split them, exactly" if exact else None,
        rules=("split_separable",) if exact else None,
    )


def _candidate(scene: Scene, node: Node) -> bool:
    into, out, group = scene.widths(node)
    wide = min(into, out) >= LEAST_WIDTH
    return group == 1 and wide and scene.share([node]) >= LEAST_SHARE


def _spectrum(flat: np.ndarray) -> np.ndarray:
    """Squared singular values, the largest first."""
    small = flat if flat.shape[0] <= flat.shape[1] else flat.T
    gram = (small @ small.T).astype(np.float64)
    energies: np.ndarray = np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0)
    return energies
