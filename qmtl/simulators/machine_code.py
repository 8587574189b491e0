"""From a kernel's function to machine code: numba types and lowers it, LLVM does the rest.

Numba's own ways to a compiled function optimise it twice and generate its code a second time, for
calls from Python. Only kernels that are not on disk yet come here.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from qmtl.errors import QmtlError

__all__ = ["loaded", "object_file"]

# Sums may be reordered, so that they vectorise; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "arcp", "nsz"}
# Numba's functions take places for a result and for an error, too.
_ENTRY = """
define void @run(ptr %words) {{
  %nothing = alloca ptr
  %error = call i32 @{name}(ptr %nothing, ptr %nothing, ptr %words)
  ret void
}}
"""
# What compiled code may call: LLVM's own functions and some of C.
_OF_C = re.compile(r"llvm\.|mem(set|cpy|move)$|sqrt$")


def object_file(function: Callable[[Any], None]) -> bytes:
    """Machine code of a function of a pointer to 64-bit words; it is called ``run``.

    Raises:
        QmtlError: if it calls what is not there without numba.
    """
    return _optimised(*_lowered(function))


def _lowered(function: Callable[[Any], None]) -> tuple[str, str]:
    """A function in LLVM's language, and its name there."""
    from numba import types
    from numba.core.compiler import Flags, compile_extra
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.cpu_options import FastMathOptions
    from numba.core.registry import cpu_target

    flags: Any = Flags()
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.error_model, flags.fastmath = "numpy", FastMathOptions(_FAST)
    # LLVM does as much, several times as fast; a variable has one type then, as in C.
    flags.no_rewrites, flags.enable_ssa = True, False
    target = cpu_target.typing_context, cpu_target.target_context
    words = (types.CPointer(types.int64),)
    with global_compiler_lock:
        lowered = compile_extra(*target, function, words, types.void, flags, {})
    return lowered.library.get_llvm_str(), lowered.fndesc.llvm_func_name


def _optimised(text: str, name: str) -> bytes:
    """Machine code of one function of a module of LLVM's language.

    Raises:
        QmtlError: if it calls what is not there without numba.
    """
    from llvmlite import binding

    code = binding.parse_assembly(text + _ENTRY.format(name=name))
    for function in code.functions:
        if function.name != "run" and not function.is_declaration:
            # What has been joined into its caller need not be there a second time.
            function.linkage = "internal"
    machine = _machine()
    options = binding.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(code, passes)
    for function in code.functions:
        if function.is_declaration and not _OF_C.match(function.name):
            raise QmtlError(f"a kernel must not call {function.name}; please report this")
    return bytes(machine.emit_object(code))


def _machine() -> Any:
    """The processor that this runs on."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    features = binding.get_host_cpu_features().flatten()
    cpu = binding.get_host_cpu_name()
    return target.create_target_machine(cpu=cpu, features=features, opt=3, jit=True)


@cache
def _engines() -> list[Any]:
    """What keeps loaded object files in memory."""
    return []


def loaded(code: bytes) -> int:
    """The address of an object file's function."""
    from llvmlite import binding

    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _machine())
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines().append(engine)
    return int(engine.get_function_address("run"))
