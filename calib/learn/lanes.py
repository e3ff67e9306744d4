# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""Sixteen single-precision numbers as one value of a compiled kernel: a row of a network's layer.

What is done with one is done with vector instructions, whatever the compiler makes of loops. `load`, `store` and
`spread` take a C-ordered float32 array of two dimensions, and a row that is there: nothing is checked.

Exponentials are ``2^n 2^f``, n the nearest whole number and 2^f a polynomial, to within 3e-7 of what is made of them.
What is no number stays none.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

# ruff: noqa: D103 - each intrinsic's one line stands in its comment

instruction: Any = intrinsic
"""Whose functions take no typing context where they are called, as its own type says that they do."""
LANES = 16
FLOAT, WHOLE = ir.FloatType(), ir.IntType(32)
VECTOR, WHOLES = ir.VectorType(FLOAT, LANES), ir.VectorType(WHOLE, LANES)
HALF = LANES // 2
ROUNDING = 1.5 * 2.0**23
"""Added to a number below 2^22 it leaves the nearest whole one in the last bits."""
FARTHEST = 87.0
"""Exponents of e beyond which single precision ends."""
POWER = (1.0, 0.69314698, 0.24022242, 0.05550734, 0.0096715151, 0.0013264678)
"""2^f for |f| <= 1/2, f^0 first; the largest relative error is the least, 9e-8."""


class Lanes(types.Type):
    """Numba's type of a row."""

    def __init__(self) -> None:
        super().__init__("Lanes")


ROW = Lanes()


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """One vector."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR)


def constant(x: float) -> ir.Constant:
    """In all lanes."""
    return ir.Constant(VECTOR, [x] * LANES)


def place(context, builder, kind, array, row, column=None):
    """Where a number of a row of an array lies, (float*)."""
    array = context.make_array(kind)(context, builder, array)
    apart = builder.mul(row, builder.extract_value(array.strides, 0))
    at = builder.bitcast(builder.gep(builder.bitcast(array.data, cgutils.voidptr_t), [apart]), FLOAT.as_pointer())
    return at if column is None else builder.gep(at, [column])


def fused(builder, x, y, z):
    """``x y + z``, rounded once where the processor can."""
    of_three = ir.FunctionType(VECTOR, [VECTOR] * 3)
    known = cgutils.get_or_insert_function(builder.module, of_three, f"llvm.fmuladd.v{LANES}f32")
    return builder.call(known, [x, y, z])


def at_least(builder, x, low: float):
    """The larger of the two, and NaN where that is x."""
    return builder.select(builder.fcmp_ordered("<", x, constant(low)), constant(low), x)


def at_most(builder, x, high: float):
    """The smaller of the two, and NaN where that is x."""
    return builder.select(builder.fcmp_ordered(">", x, constant(high)), constant(high), x)


def exponential(builder, x, factor: float):
    """``exp(factor x)``; that product is within +-FARTHEST."""
    in_powers = constant(factor / math.log(2.0))
    shifted = fused(builder, x, in_powers, constant(ROUNDING))
    f = fused(builder, x, in_powers, builder.fneg(builder.fsub(shifted, constant(ROUNDING))))
    out = constant(POWER[-1])
    for c in POWER[-2::-1]:
        out = fused(builder, out, f, constant(c))
    n = builder.shl(builder.bitcast(shifted, WHOLES), ir.Constant(WHOLES, [23] * LANES))
    return builder.bitcast(builder.add(builder.bitcast(out, WHOLES), n), VECTOR)


def in_rows(array):
    """Whether rows of an array can be taken in one piece."""
    return isinstance(array, types.Array) and array.ndim == 2 and array.dtype == types.float32 and array.layout == "C"


@instruction
def load(typing, array, row):
    # the first LANES numbers of a row
    def code(context, builder, signature, args):
        at = place(context, builder, signature.args[0], *args)
        return builder.load(builder.bitcast(at, VECTOR.as_pointer()), align=4)

    return (ROW(array, types.intp), code) if in_rows(array) else None


@instruction(prefer_literal=True)
def load_short(typing, array, row, width):
    # all of a row of HALF to LANES numbers, and zeros; width is a constant
    if not in_rows(array) or not isinstance(width, types.IntegerLiteral):
        return None
    n = width.literal_value
    half = ir.VectorType(FLOAT, HALF)

    def code(context, builder, signature, args):
        at = place(context, builder, signature.args[0], *args[:2])
        ends = [
            builder.load(builder.bitcast(builder.gep(at, [ir.Constant(WHOLE, k)]), half.as_pointer()), align=4)
            for k in (0, n - HALF)
        ]  # fmt: skip
        both = builder.shuffle_vector(*ends, ir.Constant(WHOLES, list(range(LANES))))
        order = [*range(HALF), *range(HALF + LANES - n, LANES), *range(LANES, 2 * LANES - n)]
        return builder.shuffle_vector(both, constant(0.0), ir.Constant(WHOLES, order))

    return ROW(array, types.intp, width), code


@instruction
def store(typing, array, row, x):
    # into the first LANES numbers of a row
    def code(context, builder, signature, args):
        at = place(context, builder, signature.args[0], *args[:2])
        builder.store(args[2], builder.bitcast(at, VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return (types.void(array, types.intp, ROW), code) if in_rows(array) else None


@instruction
def spread(typing, array, row, column):
    # one number of an array, in all lanes
    def code(context, builder, signature, args):
        return all_of(builder, builder.load(place(context, builder, signature.args[0], *args)))

    return (ROW(array, types.intp, types.intp), code) if in_rows(array) else None


@instruction
def same(typing, x):
    # a number in all lanes
    def code(context, builder, signature, args):
        return all_of(builder, args[0])

    return ROW(types.float32), code


def all_of(builder, x):
    """A number in all lanes."""
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), x, ir.Constant(WHOLE, 0))
    return builder.shuffle_vector(one, one, ir.Constant(WHOLES, [0] * LANES))


@instruction
def fma(typing, x, y, z):
    # x y + z
    def code(context, builder, signature, args):
        return fused(builder, *args)

    return ROW(ROW, ROW, ROW), code


@instruction
def plus(typing, x, y):
    # x + y
    def code(context, builder, signature, args):
        return builder.fadd(*args)

    return ROW(ROW, ROW), code


@instruction
def times(typing, x, y):
    # x y
    def code(context, builder, signature, args):
        return builder.fmul(*args)

    return ROW(ROW, ROW), code


@instruction
def total(typing, x):
    # of all lanes
    def code(context, builder, signature, args):
        x, n = args[0], LANES
        while n > 1:  # halves onto each other
            n //= 2
            low, high = (ir.Constant(ir.VectorType(WHOLE, n), list(range(k, k + n))) for k in (0, n))
            x = builder.fadd(builder.shuffle_vector(x, x, low), builder.shuffle_vector(x, x, high))
        return builder.extract_element(x, ir.Constant(WHOLE, 0))

    return types.float32(ROW), code


@instruction(prefer_literal=True)
def clamped(typing, x, size):
    # between -size and size, a constant
    def code(context, builder, signature, args):
        edge = float(size.literal_value)
        return at_most(builder, at_least(builder, args[0], -edge), edge)

    return ROW(ROW, size), code


@instruction
def silu(typing, x):
    # x / (1 + exp(-x))
    def code(context, builder, signature, args):
        x = at_least(builder, args[0], -FARTHEST)
        e = exponential(builder, at_most(builder, x, FARTHEST), -1.0)
        return builder.fdiv(x, builder.fadd(constant(1.0), e))

    return ROW(ROW), code


@instruction
def tanh(typing, x):
    # 1 - 2 / (1 + exp(2 x))
    def code(context, builder, signature, args):
        x = at_most(builder, at_least(builder, args[0], -10.0), 10.0)  # where it is one
        e = exponential(builder, x, 2.0)
        return builder.fsub(constant(1.0), builder.fdiv(constant(2.0), builder.fadd(constant(1.0), e)))

    return ROW(ROW), code
