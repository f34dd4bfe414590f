"""bfloat16 numbers that are rounded at random: up as often as they are far from the lower one, so that the mean of many
roundings is the number, and changes smaller than a step of bfloat16 are not lost.

The random bits come from a value's place in its matrix and a seed alone, as in kernels.c and triton_programs.py: none
are kept, neither threads nor processes change any, and a resumed training draws the same.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

MASK = (1 << 32) - 1


def random_bits(places: Int[Tensor, "..."], seed: int) -> Int[Tensor, "..."]:
    """32 bits for each place of a flattened matrix.

    Source: the mixing of Wellons 2018, hash-prospector, `lowbias32`.
    """
    mixed = (places & MASK) ^ _times(torch.tensor(seed), 0x9E3779B1).to(places.device)
    mixed = _times(mixed ^ (mixed >> 16), 0x7FEB352D)
    mixed = _times(mixed ^ (mixed >> 15), 0x846CA68B)
    return mixed ^ (mixed >> 16)


def bfloat16_at_random(x: Float[Tensor, "..."], bits: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """float32 as bfloat16, by 16 random bits each."""
    raised = (x.view(torch.int32).long() & MASK) + bits
    return (raised >> 16).to(torch.int16).view(torch.bfloat16)


def _times(a: Tensor, b: int) -> Tensor:
    """The product's lower 32 bits."""
    return (a * b) & MASK
