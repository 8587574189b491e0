"""What kernels are written with: parts, arrays from addresses, and counters shared by threads.

Only kernels import this, and only to be compiled. A variable of a kernel has one type throughout,
and a kernel calls no function that numba compiles by itself, such as `max`.
"""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

__all__ = [
    "argument",
    "array",
    "count",
    "fused",
    "horner",
    "nearest",
    "odd",
    "part",
    "reached",
    "take",
]

# Parts are joined before compilation: optimising each alone and joined again takes longer.
part = njit(inline="always", error_model="numpy")
WORD = ir.IntType(64)


@intrinsic
def take(context, words, place):
    """A word, which is counted up: no two threads get the same."""

    def generate(context, builder, signature, arguments):
        word = builder.gep(arguments[0], [arguments[1]])
        return builder.atomic_rmw("add", word, WORD(1), "monotonic")

    return types.int64(words, place), generate


@intrinsic
def count(context, words, place):
    """Count up a word: whoever sees it sees also what this thread has written before."""

    def generate(context, builder, signature, arguments):
        word = builder.gep(arguments[0], [arguments[1]])
        builder.atomic_rmw("add", word, WORD(1), "acq_rel")
        return context.get_dummy_value()

    return types.void(words, place), generate


@intrinsic
def reached(context, words, place, number):
    """Whether a word has been counted up to a number."""

    def generate(context, builder, signature, arguments):
        word = builder.gep(arguments[0], [arguments[1]])
        now = builder.load_atomic(word, "acquire", 8)
        return builder.icmp_signed(">=", now, arguments[2])

    return types.boolean(words, place, number), generate


@intrinsic
def fused(context, a, b, c):
    """``a * b + c``, rounded once; not reordered."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return a(a, a, a), generate


@intrinsic
def horner(context, coefficients, x):
    """A polynomial, from its coefficients, the constant one first."""

    def generate(context, builder, signature, arguments):
        *rest, found = cgutils.unpack_tuple(builder, arguments[0])
        for coefficient in reversed(rest):
            product = builder.fmul(found, arguments[1], flags=["contract"])
            found = builder.fadd(product, coefficient, flags=["contract"])
        return found

    return x(coefficients, x), generate


@intrinsic
def nearest(context, number):
    """The nearest integer, as a number of the same precision."""

    def generate(context, builder, signature, arguments):
        function = builder.module.declare_intrinsic("llvm.rint", [arguments[0].type])
        return builder.call(function, arguments)

    return number(number), generate


@intrinsic
def odd(context, number):
    """Whether an odd number of bits is set."""

    def generate(context, builder, signature, arguments):
        return builder.trunc(builder.ctpop(arguments[0]), ir.IntType(1))

    return types.boolean(types.int64), generate


@intrinsic
def array(context, address, shape, real):
    """The array at an address; numba's `carray` takes longer to compile."""
    kind = types.Array(real.dtype, len(shape), "C")

    def generate(context, builder, signature, arguments):
        shape = cgutils.unpack_tuple(builder, arguments[1])
        return _array(context, builder, kind, arguments[0], shape)

    return kind(address, shape, real), generate


@intrinsic(prefer_literal=True)
def argument(context, words, place, n_axes, real):
    """The array whose address is a word, and whose shape are the next ones."""
    kind = types.Array(real.dtype, n_axes.literal_value, "C")

    def generate(context, builder, signature, arguments):
        begin = builder.gep(arguments[0], [arguments[1]])
        pointers = (builder.gep(begin, [WORD(i)]) for i in range(kind.ndim + 1))
        address, *shape = map(builder.load, pointers)
        return _array(context, builder, kind, address, shape)

    return kind(words, place, n_axes, real), generate


def _array(context, builder, kind, address, shape):
    size = WORD(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides = [size]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    found = make_array(kind)(context, builder)
    data = builder.inttoptr(address, found.data.type)
    populate_array(found, data, shape, strides, size, meminfo=None)
    return found._getvalue()
