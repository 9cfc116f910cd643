"""A weight that is computed when it is written: proposals are many, and each may rewrite every weight of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

LARGE = 2**16
"""Bytes from which it is worth while not to hold a weight more than once."""


@dataclass(frozen=True, eq=False)
class Later:
    """Shape and element type of an array, and how to make it. `make` gives the same values each time."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], NDArray[Any]]
    name: str = ""

    def named(self, name: str) -> Later:
        return replace(self, name=name)

    def array(self) -> NDArray[Any]:
        values = np.asarray(self.make(), self.dtype, order="C")
        assert values.shape == self.shape, f"{self.name}: {values.shape} was promised to be {self.shape}"
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        del copy
        return self.array() if dtype is None else self.array().astype(dtype)

    def proto(self) -> onnx.TensorProto:
        return numpy_helper.from_array(self.array(), self.name)

    def described(self) -> onnx.TensorProto:
        """The initializer without its values: what shape inference needs."""
        data_type = onnx.helper.np_dtype_to_tensor_dtype(self.dtype)
        return onnx.TensorProto(name=self.name, data_type=data_type, dims=self.shape)


def is_large(values: NDArray[Any]) -> bool:
    return values.nbytes >= LARGE
