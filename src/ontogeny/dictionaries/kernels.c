/* Sums of a few weighted rows, for codes of few active entries: the functions of kernels.py, compiled.

   Entries lie in order of their rows: those of row r are starts[r] … starts[r + 1] - 1, each with the index of a row
   of another matrix. Matrices are read a block of columns at a time. A block is copied side by side, so that it stays
   in cache (rows whose width is a power of two would push each other out), and what is summed stays in registers.
   Every function does rows first … last - 1; a sum is made by one thread, in the order of its entries, so that the
   number of threads changes no bit. They return -1 where there is no memory. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define LANES 16
#define VECTORS 4
#define AHEAD 3
#define BLOCK (VECTORS * LANES)
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float eight __attribute__((vector_size(32)));
typedef float four __attribute__((vector_size(16)));

/* Compiled for each constant that `vectors` is. */
#define INLINE static inline __attribute__((always_inline))

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* `columns` values, and zeros up to a whole number of vectors. */
INLINE void load(const int vectors, const int64_t columns, const float *from, lanes *to) {
    for (int v = 0; v < vectors; v++)
        if (columns >= (v + 1) * LANES)
            to[v] = *(const lanes *)(from + v * LANES);
        else {
            to[v] = (lanes){0};
            for (int64_t i = v * LANES; i < columns; i++) to[v][i - v * LANES] = from[i];
        }
}

INLINE void store(const int vectors, const int64_t columns, const lanes *from, float *to) {
    for (int v = 0; v < vectors; v++)
        if (columns >= (v + 1) * LANES)
            *(lanes *)(to + v * LANES) = from[v];
        else
            for (int64_t i = v * LANES; i < columns; i++) to[i] = from[v][i - v * LANES];
}

INLINE void load_block(const int vectors, const int64_t columns, const float *rows, int64_t n, int64_t width,
                       lanes *block) {
    for (int64_t r = 0; r < n; r++) load(vectors, columns, rows + r * width, block + r * vectors);
}

static lanes *new_block(int64_t n) { return aligned_alloc(64, (n ? n : 1) * BLOCK * sizeof(float)); }

/* sum += Σ weight · row. */
INLINE void add_rows(const int vectors, lanes *sum, const lanes *block, const int64_t *index, const float *weight,
                     int64_t first, int64_t last) {
    for (int64_t q = first; q < last; q++)
        for (int v = 0; v < vectors; v++) sum[v] += weight[q] * block[index[q] * vectors + v];
}

/* The sum of a vector's values, halved again and again. */
INLINE float total(lanes x) {
    const union { lanes whole; eight half[2]; } a = {x};
    const union { eight whole; four half[2]; } b = {a.half[0] + a.half[1]};
    const four sum = b.half[0] + b.half[1];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* products[q] += ⟨left, row⟩. */
INLINE void add_products(const int vectors, const lanes *left, const lanes *block, const int64_t *index, int64_t first,
                         int64_t last, float *products) {
    for (int64_t q = first; q < last; q++) {
        lanes sum = left[0] * block[index[q] * vectors];
        for (int v = 1; v < vectors; v++) sum += left[v] * block[index[q] * vectors + v];
        products[q] += total(sum);
    }
}

INLINE void sums_block(const int vectors, const int64_t columns, int64_t first, int64_t last, const lanes *block,
                       int64_t width, const int64_t *index, const float *weight, const int64_t *starts, float *out) {
    for (int64_t r = first; r < last; r++) {
        lanes sum[VECTORS] = {{0}};
        add_rows(vectors, sum, block, index, weight, starts[r], starts[r + 1]);
        store(vectors, columns, sum, out + r * width);
    }
}

/* out[r] = Σ weight · rows[index]. */
int64_t sums(int64_t first, int64_t last, const float *rows, int64_t n, int64_t width, const int64_t *index,
             const float *weight, const int64_t *starts, float *out) {
    lanes *block = new_block(n);
    if (!block) return -1;
    int64_t at = 0;
    for (; at + BLOCK <= width; at += BLOCK) {
        load_block(VECTORS, BLOCK, rows + at, n, width, block);
        sums_block(VECTORS, BLOCK, first, last, block, width, index, weight, starts, out + at);
    }
    for (; at < width; at += LANES) {
        const int64_t columns = least(LANES, width - at);
        load_block(1, columns, rows + at, n, width, block);
        sums_block(1, columns, first, last, block, width, index, weight, starts, out + at);
    }
    free(block);
    return 0;
}

/* A step of Adam, as PyTorch makes it: rate = lr / (1 - beta1^t), root = √(1 - beta2^t). Moments are float, or the
   upper halves of floats, rounded at random (rounding.py) by bits of their place, of which `before` are elsewhere. */
typedef struct {
    float rate, beta1, beta2, eps, root;
    uint32_t seed;
    int64_t before;
} Adam;

INLINE uint32_t random_bits(uint32_t place, uint32_t seed) {
    uint32_t mixed = place ^ seed * 0x9E3779B1u;
    mixed = (mixed ^ mixed >> 16) * 0x7FEB352Du;
    mixed = (mixed ^ mixed >> 15) * 0x846CA68Bu;
    return mixed ^ mixed >> 16;
}

INLINE float from_half(uint16_t half) {
    const union { uint32_t bits; float value; } x = {(uint32_t)half << 16};
    return x.value;
}

INLINE uint16_t to_half(float value, uint32_t random) {
    const union { float value; uint32_t bits; } x = {value};
    return (uint16_t)((x.bits + random) >> 16);
}

INLINE void adam_step(const int halves, const int64_t n, const float *restrict grad, float *restrict value,
                      void *restrict mean, void *restrict square, const int64_t place, const Adam by) {
    for (int64_t i = 0; i < n; i++) {
        float m = halves ? from_half(((uint16_t *)mean)[place + i]) : ((float *)mean)[place + i];
        float s = halves ? from_half(((uint16_t *)square)[place + i]) : ((float *)square)[place + i];
        m += (grad[i] - m) * (1 - by.beta1);
        s = s * by.beta2 + grad[i] * grad[i] * (1 - by.beta2);
        value[place + i] -= by.rate * m / (sqrtf(s) / by.root + by.eps);
        if (halves) {
            const uint32_t random = random_bits((uint32_t)(by.before + place + i), by.seed);
            ((uint16_t *)mean)[place + i] = to_half(m, random & 0xFFFF);
            ((uint16_t *)square)[place + i] = to_half(s, random >> 16);
        } else {
            ((float *)mean)[place + i] = m;
            ((float *)square)[place + i] = s;
        }
    }
}

/* grad += radial[group] · value, of some columns of a row whose groups have `size` columns each. */
INLINE void add_radial(const int64_t columns, float *restrict grad, const float *restrict value,
                       const float *radial, const int64_t at, const int64_t size) {
    for (int64_t i = 0; i < columns;) {
        const int64_t group = (at + i) / size, end = least(columns, (group + 1) * size - at);
        for (const float by = radial[group]; i < end; i++) grad[i] += by * value[i];
    }
}

INLINE void adam_block(const int halves, const int vectors, const int64_t columns, int64_t first, int64_t last,
                       const lanes *block, int64_t at, int64_t width, const int64_t *index, const float *weight,
                       const int64_t *starts, float *value, void *mean, void *square, const float *radial,
                       int64_t groups, const Adam by) {
    const int64_t size = halves ? sizeof(uint16_t) : sizeof(float);
    for (int64_t r = first; r < last; r++) {
        lanes sum[VECTORS] = {{0}};
        float grad[BLOCK];
        const int64_t next = least(r + AHEAD, last - 1) * width + at;
        for (int v = 0; v < vectors; v++) {
            __builtin_prefetch(value + next + v * LANES, 1);
            __builtin_prefetch((char *)mean + (next + v * LANES) * size, 1);
            __builtin_prefetch((char *)square + (next + v * LANES) * size, 1);
        }
        add_rows(vectors, sum, block, index, weight, starts[r], starts[r + 1]);
        store(vectors, vectors * LANES, sum, grad);
        if (groups) add_radial(columns, grad, value + r * width + at, radial + r * groups, at, width / groups);
        adam_step(halves, columns, grad, value, mean, square, r * width + at, by);
    }
}

INLINE int64_t adam_of(const int halves, int64_t first, int64_t last, const float *rows, int64_t n, int64_t width,
                       const int64_t *index, const float *weight, const int64_t *starts, float *value, void *mean,
                       void *square, const float *radial, int64_t groups, const Adam by) {
    lanes *block = new_block(n);
    if (!block) return -1;
    int64_t at = 0;
    for (; at + BLOCK <= width; at += BLOCK) {
        load_block(VECTORS, BLOCK, rows + at, n, width, block);
        adam_block(halves, VECTORS, BLOCK, first, last, block, at, width, index, weight, starts, value, mean, square,
                   radial, groups, by);
    }
    for (; at < width; at += LANES) {
        const int64_t columns = least(LANES, width - at);
        load_block(1, columns, rows + at, n, width, block);
        adam_block(halves, 1, columns, first, last, block, at, width, index, weight, starts, value, mean, square,
                   radial, groups, by);
    }
    free(block);
    return 0;
}

/* A step of Adam with what `sums` would write as the gradient, which is never in memory as a whole; where there are
   groups of columns, with radial[row, group] · value beside. */
int64_t adam(int64_t first, int64_t last, const float *rows, int64_t n, int64_t width, const int64_t *index,
             const float *weight, const int64_t *starts, float *value, void *mean, void *square,
             const float *radial, int64_t groups, int64_t halves, int64_t seed, int64_t before, float rate, float beta1,
             float beta2, float eps, float root) {
    const Adam by = {rate, beta1, beta2, eps, root, (uint32_t)seed, before};
    if (halves)
        return adam_of(1, first, last, rows, n, width, index, weight, starts, value, mean, square, radial, groups, by);
    return adam_of(0, first, last, rows, n, width, index, weight, starts, value, mean, square, radial, groups, by);
}

INLINE void products_block(const int vectors, const int64_t columns, int64_t first, int64_t last, const float *left,
                           const lanes *block, int64_t width, const int64_t *index, const int64_t *starts, float *out) {
    for (int64_t r = first; r < last; r++) {
        lanes own[VECTORS];
        load(vectors, columns, left + r * width, own);
        add_products(vectors, own, block, index, starts[r], starts[r + 1], out);
    }
}

/* out[q] = ⟨left[r], right[index[q]]⟩ for the entries q of each row r; 0 before. */
int64_t products(int64_t first, int64_t last, const float *left, const float *right, int64_t n, int64_t width,
                 const int64_t *index, const int64_t *starts, float *out) {
    lanes *block = new_block(n);
    if (!block) return -1;
    int64_t at = 0;
    for (; at + BLOCK <= width; at += BLOCK) {
        load_block(VECTORS, BLOCK, right + at, n, width, block);
        products_block(VECTORS, BLOCK, first, last, left + at, block, width, index, starts, out);
    }
    for (; at < width; at += LANES) {
        const int64_t columns = least(LANES, width - at);
        load_block(1, columns, right + at, n, width, block);
        products_block(1, columns, first, last, left + at, block, width, index, starts, out);
    }
    free(block);
    return 0;
}

INLINE void errors_block(const int vectors, const int64_t columns, int64_t first, int64_t last, const lanes *block,
                         int64_t width, const int64_t *index, const float *weight, const int64_t *starts,
                         const float *bias, const float *x, float *error, float *out) {
    lanes b[VECTORS];
    load(vectors, columns, bias, b);
    for (int64_t r = first; r < last; r++) {
        lanes sum[VECTORS], own[VECTORS];
        load(vectors, columns, x + r * width, own);
        for (int v = 0; v < vectors; v++) sum[v] = b[v] - own[v];
        add_rows(vectors, sum, block, index, weight, starts[r], starts[r + 1]);
        store(vectors, columns, sum, error + r * width);
        add_products(vectors, sum, block, index, starts[r], starts[r + 1], out);
    }
}

/* error[r] = Σ weight · rows[index] + bias - x[r], and out[q] = ⟨error[r], rows[index[q]]⟩; out is 0 before. */
int64_t errors(int64_t first, int64_t last, const float *rows, int64_t n, int64_t width, const int64_t *index,
               const float *weight, const int64_t *starts, const float *bias, const float *x, float *error, float *out) {
    lanes *block = new_block(n);
    if (!block) return -1;
    int64_t at = 0;
    for (; at + BLOCK <= width; at += BLOCK) {
        load_block(VECTORS, BLOCK, rows + at, n, width, block);
        errors_block(VECTORS, BLOCK, first, last, block, width, index, weight, starts, bias + at, x + at, error + at,
                     out);
    }
    for (; at < width; at += LANES) {
        const int64_t columns = least(LANES, width - at);
        load_block(1, columns, rows + at, n, width, block);
        errors_block(1, columns, first, last, block, width, index, weight, starts, bias + at, x + at, error + at, out);
    }
    free(block);
    return 0;
}

INLINE float value_at(const int halves, const void *values, int64_t at) {
    return halves ? from_half(((const uint16_t *)values)[at]) : ((const float *)values)[at];
}

INLINE int64_t above_of(const int halves, int64_t first, int64_t last, const void *values, int64_t columns,
                        const float *bias, const float *weight, const float *bound, int64_t room, int64_t *place,
                        float *score) {
    int64_t count = 0;
    place += first * room;
    score += first * room;
    for (int64_t r = first; r < last; r++) {
        if (count + columns > (last - first) * room) return -2;
        for (int64_t at = 0; at < columns; at += LANES) {
            const int64_t end = least(at + LANES, columns);
            int some = end - at < LANES;
            if (!some)
                for (int64_t j = at; j < at + LANES; j++)
                    some |= (value_at(halves, values, r * columns + j) + bias[j]) * weight[j] > bound[j];
            for (int64_t j = at; some && j < end; j++) {
                const float s = (value_at(halves, values, r * columns + j) + bias[j]) * weight[j];
                place[count] = r * columns + j;
                score[count] = s;
                count += s > bound[j];
            }
        }
    }
    return count;
}

/* Places in the flattened [row, column] where (value + bias) · weight > bound, ascending, with these products: how
   many, or -2 where they do not fit. Values are float, or the upper halves of floats. Written from first · room on;
   there has to be room for a row more than are found. */
int64_t above(int64_t first, int64_t last, const void *values, int64_t halves, int64_t columns, const float *bias,
              const float *weight, const float *bound, int64_t room, int64_t *place, float *score) {
    if (halves) return above_of(1, first, last, values, columns, bias, weight, bound, room, place, score);
    return above_of(0, first, last, values, columns, bias, weight, bound, room, place, score);
}

/* Entries in order of their columns, those of one column in their own; `next` holds where each column begins. */
int64_t order(int64_t first, int64_t last, const int64_t *column, int64_t *next, int64_t *out) {
    for (int64_t q = first; q < last; q++) out[next[column[q]]++] = q;
    return 0;
}
