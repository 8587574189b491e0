"""What kernels are written with: parts, arrays from addresses, and a counter shared by threads.

Only kernels import this, and only to be compiled.
"""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

__all__ = ["array", "odd", "part", "take"]

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
        size = WORD(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        shape = cgutils.unpack_tuple(builder, arguments[1])
        strides = [size]
        for length in shape[:0:-1]:
            strides.insert(0, builder.mul(strides[0], length))
        found = make_array(kind)(context, builder)
        data = builder.inttoptr(arguments[0], found.data.type)
        populate_array(found, data, shape, strides, size, meminfo=None)
        return found._getvalue()

    return kind(address, shape, real), generate
