"""Vectors of sixteen numbers, and arrays that do not overlap: two things numba cannot be told in Python.

Without the first, every loop begins with comparisons of all its addresses,
which for 128 channels take longer than the loop. Without the second, sums over the
sixteen channels of a head are made one number after the other.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba finds the types

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.compiler import Compiler
from numba.extending import intrinsic

__all__ = ["LANES", "disjoint", "spread_heads", "sum_heads"]

LANES = 16  # channels of a head
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FIRST = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)


class _Disjoint(Compiler):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.state.flags.noalias = True


disjoint = numba.njit(
    nogil=True,
    fastmath={"contract", "reassoc", "nsz", "arcp"},
    error_model="numpy",
    pipeline_class=_Disjoint,
    forceinline=True,
)
"""Compile a function that writes to no array that overlaps another of its arguments."""


def _address(context, builder, kind, array, index):
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _sum_code(_, array, index):
    def code(context, builder, signature, arguments):
        lanes = builder.load(_address(context, builder, signature.args[0], *arguments), align=4)
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), _VECTOR])
        add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{LANES}f32")
        return builder.call(add, [ir.Constant(ir.FloatType(), 0.0), lanes], fastmath=["reassoc", "nsz"])

    return types.float32(array, types.intp), code


def _fill_code(_, array, index, value):
    def code(context, builder, signature, arguments):
        where = _address(context, builder, signature.args[0], *arguments[:2])
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        one = builder.insert_element(undefined, arguments[2], ir.Constant(ir.IntType(32), 0))
        builder.store(builder.shuffle_vector(one, undefined, _FIRST), where, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), code


_sum_lanes: Any = intrinsic(_sum_code)
_fill_lanes: Any = intrinsic(_fill_code)


@disjoint
def sum_heads(p, s):
    """Sums over the channels of every head, ``p`` (n * LANES,), to ``s`` (n,); float32, contiguous."""
    for h in range(s.shape[0]):
        s[h] = _sum_lanes(p, LANES * h)


@disjoint
def spread_heads(s, p):
    """Every head's number to all its channels."""
    for h in range(s.shape[0]):
        _fill_lanes(p, LANES * h, s[h])
