"""The weight of a sparsity loss at which a dictionary has a wanted number of active features."""

import math
from collections.abc import Callable


def weight_for(
    l0_of: Callable[[float], float], *, wanted: float, start: float, tolerance: float = 0.05, tries: int = 7
) -> float:
    """λ by secants in log λ against log L0; the best of those tried.

    Args:
        l0_of: trains with a λ and gives the L0.
        tolerance: of log L0.
    """
    weight = start
    tried: list[tuple[float, float]] = []
    for _ in range(tries):
        off = math.log(max(l0_of(weight), 0.05) / wanted)
        tried.append((weight, off))
        if abs(off) < tolerance:
            break
        slope = -1.4
        if len(tried) > 1 and tried[-1][0] != tried[-2][0]:
            slope = min((tried[-1][1] - tried[-2][1]) / math.log(tried[-1][0] / tried[-2][0]), -0.2)
        weight *= math.exp(max(-1.5, min(1.5, -off / slope)))
    return min(tried, key=lambda pair: abs(pair[1]))[0]
