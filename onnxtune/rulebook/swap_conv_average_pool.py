"""An average over pixels commutes with a 1x1 convolution, which is linear over channels.

    y[i] = sum_r a[i, r] (W x[r] + b) = W (sum_r a[i, r] x[r]) + b sum_r a[i, r]

where a[i, r] are the pool's weights. They sum to 1 when the divisor is the number of pixels in the window:
no padding, or padding that does not count (count_include_pad = 0), and the bias passes. Where padding
counts they sum to less at the border: only a Conv without bias may pass. So too where ceil_mode lets the
last window hang over: operator versions differ on what count_include_pad counts there. A window of
padding alone has no mean, and is refused with a bias as well.

The Conv keeps its groups, and runs on the pool's output: s_h s_w times fewer products. (Over the whole
map it is `use_global_pool` that moves the pool.)
"""

from __future__ import annotations

from onnxtune.costs import shrinks
from onnxtune.fragment import Builder
from onnxtune.pattern import Match
from onnxtune.rule import No
from onnxtune.windows import every_window_meets_input, window


def rewrite(match: Match, new: Builder, settings: object) -> str | No:
    conv, pool = match.c, match.y
    own, over = window(match.facts, conv), window(match.facts, pool)
    if isinstance(own, str):
        return No(own)
    if any(k != 1 for k in own.kernel) or any(s != 1 for s in own.strides) or any(own.pads):
        return No("the Conv has a kernel above 1x1, a stride or pads")
    counts = pool.attribute("count_include_pad", 0)
    may_pad = isinstance(over, str) or any(over.pads) or pool.attribute("ceil_mode", 0)
    if match["b"] and counts and may_pad:
        return No("the Conv has a bias and the pool counts its padding")
    if match["b"] and not every_window_meets_input(match.facts, pool):
        return No("the Conv has a bias and a window of the pool could hold nothing but padding")
    if not shrinks(match.facts, pool):
        return No("the pool does not make the map smaller")
    mean = new.copy(pool.proto, [match["x"]])[0]
    return new.copy(conv.proto, [mean, match["w"], match["b"] or None])[0]
