"""The programs of on_gpu.py, which imports them where Triton is there."""
# pyright: reportMissingImports=false

import triton
import triton.language as tl


@triton.jit
def weighted_sum(rows, index, weight, first, last, width, at, inside, BLOCK: tl.constexpr):
    """Σ weight · rows[index] of the entries first … last - 1, at some columns."""
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for q in range(first, last):
        row = tl.load(index + q)
        total += tl.load(weight + q) * tl.load(rows + row * width + at, mask=inside, other=0.0)
    return total


@triton.jit
def sums(rows, index, weight, starts, out, width, BLOCK: tl.constexpr):
    """out[r] = Σ weight · rows[index]."""
    r = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    first, last = tl.load(starts + r), tl.load(starts + r + 1)
    total = weighted_sum(rows, index, weight, first, last, width, at, inside, BLOCK)
    tl.store(out + r * width + at, total, mask=inside)


@triton.jit
def errors(rows, index, weight, starts, bias, x, error, width, BLOCK: tl.constexpr):
    """error[r] = Σ weight · rows[index] + bias - x[r]."""
    r = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    first, last = tl.load(starts + r), tl.load(starts + r + 1)
    total = weighted_sum(rows, index, weight, first, last, width, at, inside, BLOCK)
    total += tl.load(bias + at, mask=inside) - tl.load(x + r * width + at, mask=inside)
    tl.store(error + r * width + at, total, mask=inside)


@triton.jit
def products(left, right, index, starts, out, width, BLOCK: tl.constexpr):
    """out[q] = ⟨left[r], right[index[q]]⟩ for the entries q of row r."""
    r = tl.program_id(0).to(tl.int64)
    for q in range(tl.load(starts + r), tl.load(starts + r + 1)):
        row = tl.load(index + q)
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        for block in range(tl.cdiv(width, BLOCK)):
            at = block * BLOCK + tl.arange(0, BLOCK)
            inside = at < width
            own = tl.load(left + r * width + at, mask=inside, other=0.0)
            total += own * tl.load(right + row * width + at, mask=inside, other=0.0)
        tl.store(out + q, tl.sum(total, axis=0))


@triton.jit
def random_bits(place, seed):
    """32 bits for each place, as in rounding.py."""
    mixed = place.to(tl.uint32) ^ (seed.to(tl.uint32) * 0x9E3779B1)
    mixed = (mixed ^ (mixed >> 16)) * 0x7FEB352D
    mixed = (mixed ^ (mixed >> 15)) * 0x846CA68B
    return mixed ^ (mixed >> 16)


@triton.jit
def from_half(half):
    """The float32 whose upper half this is."""
    return (half.to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def to_half(value, random):
    """The upper half of a float32, rounded by 16 random bits."""
    return ((value.to(tl.uint32, bitcast=True) + random) >> 16).to(tl.int16)


@triton.jit(do_not_specialize=["seed", "before"])
def adam(
    rows, index, weight, starts, value, mean, square, radial, groups, rate, less1, beta2, less2, eps, root, seed,
    before, width, BLOCK: tl.constexpr, HALVES: tl.constexpr, RADIAL: tl.constexpr,
):  # fmt: skip
    """A step of Adam with Σ weight · rows[index] + radial[r, group] · value as the gradient; less1 = 1 - beta1, less2 =
    1 - beta2. Random bits are those of places `before` values further on."""
    r = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    first, last = tl.load(starts + r), tl.load(starts + r + 1)
    grad = weighted_sum(rows, index, weight, first, last, width, at, inside, BLOCK)
    place = r * width + at
    old = tl.load(value + place, mask=inside, other=0)
    if RADIAL:
        grad += old * tl.load(radial + r * groups + at // (width // groups), mask=inside, other=0)
    m, s = tl.load(mean + place, mask=inside, other=0), tl.load(square + place, mask=inside, other=0)
    if HALVES:
        m, s = from_half(m), from_half(s)
    m += (grad - m) * less1
    s = s * beta2 + grad * grad * less2
    step = rate * m / (tl.sqrt(s) / root + eps)
    tl.store(value + place, old - step, mask=inside)
    if HALVES:
        random = random_bits(place + before, seed)
        tl.store(mean + place, to_half(m, random & 0xFFFF), mask=inside)
        tl.store(square + place, to_half(s, random >> 16), mask=inside)
    else:
        tl.store(mean + place, m, mask=inside)
        tl.store(square + place, s, mask=inside)
