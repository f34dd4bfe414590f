"""Triton's programs compiled for a GPU that need not be here: names of those that are.

Usage: python tests/compiling.py
"""

# pyright: reportMissingImports=false

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ontogeny.dictionaries import triton_programs
from ontogeny.dictionaries.on_gpu import BLOCK

TARGET = GPUTarget("cuda", 90, 32)
INTEGERS, NUMBERS = ("width", "groups", "seed", "before"), ("rate", "less1", "beta2", "less2", "eps", "root")
PROGRAMS = (
    ("sums", {}),
    ("errors", {}),
    ("products", {}),
    *(("adam", {"HALVES": one, "RADIAL": one}) for one in (False, True)),
)


def main() -> None:
    for name, constants in PROGRAMS:
        program, signature = getattr(triton_programs, name), {}
        for argument in program.arg_names:
            if argument in ("mean", "square"):
                signature[argument] = "*i16" if constants["HALVES"] else "*fp32"
            elif argument in INTEGERS:
                signature[argument] = "i32"
            elif argument in NUMBERS:
                signature[argument] = "fp32"
            elif argument.isupper():
                signature[argument] = "constexpr"
            else:
                signature[argument] = "*i64" if argument in ("index", "starts") else "*fp32"
        source = ASTSource(program, signature=signature, constexprs={"BLOCK": BLOCK, **constants})
        assert "cubin" in triton.compile(source, target=TARGET).asm
        print(name)


if __name__ == "__main__":
    main()
