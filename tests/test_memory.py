"""Peak memory: weights and the tensors that are alive at once."""

from __future__ import annotations

import numpy as np

from onnxtune.facts import Facts
from onnxtune.memory import peak_bytes
from onnxtune.model import Model
from onnxtune.testing import model_of


def peak(body: str, **weights: object) -> int:
    arrays = {k: np.asarray(v, np.float32) for k, v in weights.items()}
    return peak_bytes(Facts(Model(model_of(f"g (float[1, 10] x) => (float[1, 10] y) {{ {body} }}", arrays))))


def test_a_chain_holds_two_tensors_beside_the_input() -> None:
    assert peak("a = Relu (x) b = Neg (a) c = Abs (b) y = Exp (c)") == 3 * 40


def test_a_tensor_lives_until_its_last_reader() -> None:
    assert peak("a = Relu (x) b = Neg (a) c = Abs (b) y = Add (c, a)") == 4 * 40


def test_weights_count_once_and_unread_results_go() -> None:
    assert peak("a = Add (x, w) b, m = Dropout (a) y = Relu (b)", w=np.ones(10)) >= 40 + 3 * 40
    assert peak("y = Add (x, w)", w=np.ones(10)) == 40 + 2 * 40
