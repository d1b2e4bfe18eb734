"""What a graph is made of: nodes, constants in it, weights beside it. Knows no network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Parts"]


class Parts:
    """The parts of a graph so far, each known by the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.tensors: dict[str, npt.NDArray[Any]] = {}

    def node(
        self,
        op: str,
        inputs: list[str],
        output: str | None = None,
        *,
        domain: str = "",
        **attr: Any,
    ) -> str:
        """Append a node; the name of its output."""
        output = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], domain=domain, **attr))
        return output

    def constant(self, name: str, value: npt.NDArray[Any] | np.generic) -> str:
        """A value of the graph's own, which lies in it."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def integers(self, *values: int) -> str:
        """A constant list of integers."""
        return self.constant(f"integers {values}", np.array(values, np.int64))

    def integer(self, value: int) -> str:
        """A constant integer."""
        return self.constant(f"integer {value}", np.array(value, np.int64))

    def counted(self, offset: int) -> str:
        """[T] positions; where they have an offset, as RoBERTa counts them: a padding token that a
        text spells out is at -1, and those after it count on without it."""
        if not offset:
            return "positions"
        padding = self.node("Equal", ["ids", self.integer(offset - 1)])
        count = self.node("Cast", [padding], to=TensorProto.INT64)
        before = self.node("CumSum", [count, self.integer(0)], exclusive=1)
        size = self.node("Size", ["ids"])
        places = self.node("Range", [self.integer(0), size, self.integer(1)])
        first = self.node("Sub", [places, "positions"])
        own = self.node("Sub", [before, self.node("Gather", [before, first])])
        return self.node("Where", [padding, self.integer(-1), self.node("Sub", ["positions", own])])

    def stored(self, name: str, value: npt.NDArray[Any]) -> str:
        """A weight, which lies in the file beside the graph."""
        if name not in self.initializers:
            self.initializers[name] = TensorProto(
                name=name,
                data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
                dims=value.shape,
                data_location=TensorProto.EXTERNAL,
            )
            self.tensors[name] = value
        return name
