"""Pooling of projected histories in one pass, compiled for the processor that serves.

Tensor operations pass through memory one after another; here the tokens of an example stay in the nearest cache from
the first product to the last. Loops are written so that the compiler makes vector instructions of them: hence
exponential and logarithm by polynomials (those of the mathematics library are called value by value), widths that are
multiples of a vector's, and several rows of products at a time.

Shape legend: B examples, P histories, L padded tokens, D padded reader dim, H heads of attention, R pooled vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

Floats32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MEAN, NEWEST, DECAYED, ATTENTION = range(4)
"""Kinds of a pooled vector."""
TOKEN_MULTIPLE, DIM_MULTIPLE = 16, 8

# Not that of models/readers.py: what is compiled keeps its constants, and would not notice a change elsewhere.
MASKED = np.float32(-1e4)
MINUTES_A_MS = np.float32(1 / 60_000)
ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
LOG2_E = np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
SMALLEST_EXPONENT = np.float32(-60)
ROOT_HALF_BITS = np.int32(0x3F3504F3)
MANTISSA_BITS, EXPONENT_BIAS = np.int32(23), np.int32(127)
EXP = tuple(np.float32(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
                                    1.6666665459e-1, 5.0000001201e-1))  # fmt: skip
LOG = tuple(np.float32(c) for c in (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1,
                                    1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1,
                                    3.3333331174e-1))  # fmt: skip
"""Coefficients of the highest power first: Moshier's Cephes library, single precision, expf and logf."""

compiled = numba.njit(fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy", cache=True)


class ProjectedTokens(NamedTuple):
    """Histories of one reader, newest token first: c = static + age * age_weight, age the scaled log age.

    ``lengths`` int64 [P]; ``event_ts`` int64 [P, L]; ``static`` float32 [P, D, L], 0 beyond a history's length and the
    reader's dim; ``squares`` and ``along_age`` float32 [P, L]: |static|^2 and static . age_weight of each token;
    ``age_weight`` float32 [D]. ``dim``: that of the reader; ``age_scale`` of log(1 + minutes); ``decayed_scale``
    of decayed sums; ``count_scale`` of log(1 + tokens); ``epsilon`` of the LayerNorm.
    """

    lengths: Ints
    event_ts: Ints
    static: Floats32
    squares: Floats32
    along_age: Floats32
    age_weight: Floats32
    dim: int
    age_scale: np.float32
    decayed_scale: np.float32
    count_scale: np.float32
    epsilon: np.float32


@compiled
def exp(x: np.float32) -> np.float32:
    """e to the power of x <= 88, to about 2e-7 of its value; e^-60 where x is below -60, far from denormal numbers."""
    x = x if x > SMALLEST_EXPONENT else SMALLEST_EXPONENT
    power = np.floor(x * LOG2_E + HALF)
    rest = x - power * LN2_HIGH - power * LN2_LOW
    sum_ = ((((EXP[0] * rest + EXP[1]) * rest + EXP[2]) * rest + EXP[3]) * rest + EXP[4]) * rest + EXP[5]
    bits = np.int32((np.int32(power) + EXPONENT_BIAS) << MANTISSA_BITS)
    return (sum_ * rest * rest + rest + ONE) * bits.view(np.float32)


@compiled
def log1p(x: np.float32) -> np.float32:
    """log(1 + x) of x >= 0, to about 2e-7."""
    bits = np.float32(x + ONE).view(np.int32)
    power = (bits - ROOT_HALF_BITS) >> MANTISSA_BITS
    rest = np.int32(bits - (power << MANTISSA_BITS)).view(np.float32) - ONE
    high, low = np.float32(power) * LN2_HIGH, np.float32(power) * LN2_LOW
    sum_ = (((LOG[0] * rest + LOG[1]) * rest + LOG[2]) * rest + LOG[3]) * rest + LOG[4]
    sum_ = (((sum_ * rest + LOG[5]) * rest + LOG[6]) * rest + LOG[7]) * rest + LOG[8]
    square = rest * rest
    return rest + (sum_ * rest * square + low - HALF * square) + high


@compiled
def pool(
    histories: ProjectedTokens,
    index: Ints,
    event_ts: Ints,
    query: Floats32,
    kinds: Ints,
    values: Floats32,
    out: Floats32,
) -> None:
    """Histories ``index`` [B] at ``event_ts`` [B] into ``out`` [B, R * dim + 1]: pooled vectors, then the scaled log of
    the number of tokens; all 0 where a history is empty.

    Args:
        histories: their tokens.
        index: row of ``histories`` of each example.
        event_ts: instant of each example, in ms.
        query: [B, H * dim] of the heads, in their order.
        kinds: [R] of ``MEAN`` and so on.
        values: [R]: decay a minute of ``DECAYED``, slope on age of ``ATTENTION``.
        out: what is written.
    """
    length = histories.static.shape[2]
    # One by one: the compiler would not know rows of one array to be contiguous.
    minutes, age, scale = np.empty(length, np.float32), np.empty(length, np.float32), np.empty(length, np.float32)
    beyond, weight = np.empty(length, np.float32), np.empty(length, np.float32)
    vector, dim = np.zeros(histories.static.shape[1], np.float32), histories.dim
    root = ONE / np.sqrt(np.float32(dim))
    for example in range(len(index)):
        row = index[example]
        count = histories.lengths[row]
        if count == 0:
            out[example] = 0
            continue
        _scale_tokens(histories, row, count, event_ts[example], minutes, age, scale, beyond)
        head = 0
        for place in range(len(kinds)):
            if kinds[place] == NEWEST:
                for d in range(dim):
                    aged = histories.static[row, d, 0] + age[0] * histories.age_weight[d]
                    out[example, place * dim + d] = scale[0] * aged
                continue
            if kinds[place] == MEAN:
                _weigh_alike(scale, count, weight)
            elif kinds[place] == DECAYED:
                _weigh_by_age(scale, minutes, values[place], histories.decayed_scale, weight)
            else:
                for d in range(dim):
                    vector[d] = query[example, head * dim + d] * root
                _attend(histories, row, vector, values[place], age, scale, beyond, weight)
                head += 1
            _combine(histories, row, weight, age, vector)
            for d in range(dim):
                out[example, place * dim + d] = vector[d]
        out[example, len(kinds) * dim] = log1p(np.float32(count)) * histories.count_scale


@compiled
def _scale_tokens(
    histories: ProjectedTokens,
    row: int,
    count: int,
    now: int,
    minutes: Floats32,
    age: Floats32,
    scale: Floats32,
    beyond: Floats32,
) -> None:
    """Of each token its ages and what the LayerNorm multiplies it by; those ``beyond`` the history are masked."""
    square = ZERO
    for d in range(len(histories.age_weight)):
        square += histories.age_weight[d] * histories.age_weight[d]
    inverse = np.float32(1) / np.float32(histories.dim)
    for token in range(len(age)):
        elapsed = np.float32(now - histories.event_ts[row, token]) * MINUTES_A_MS
        aged = log1p(elapsed if elapsed > ZERO else ZERO) * histories.age_scale
        spread = histories.squares[row, token] + aged * (TWO * histories.along_age[row, token] + aged * square)
        scaled = ONE / np.sqrt(spread * inverse + histories.epsilon)
        minutes[token], age[token] = elapsed, aged
        beyond[token] = ZERO if token < count else MASKED
        scale[token] = scaled if token < count else ZERO


@compiled
def _weigh_alike(scale: Floats32, count: int, weight: Floats32) -> None:
    share = ONE / np.float32(count)
    for token in range(len(scale)):
        weight[token] = scale[token] * share


@compiled
def _weigh_by_age(scale: Floats32, minutes: Floats32, decay: np.float32, factor: np.float32, weight: Floats32) -> None:
    for token in range(len(scale)):
        weight[token] = scale[token] * exp(-minutes[token] * decay) * factor


@compiled
def _attend(
    histories: ProjectedTokens,
    row: int,
    query: Floats32,
    slope: np.float32,
    age: Floats32,
    scale: Floats32,
    beyond: Floats32,
    weight: Floats32,
) -> None:
    """Softmax over a history of q . c * scale + slope * age, times scale."""
    static = histories.static
    along_age = ZERO
    for d in range(len(query)):
        along_age += query[d] * histories.age_weight[d]
    for token in range(len(age)):
        weight[token] = along_age * age[token]
    for d in range(0, len(query), DIM_MULTIPLE):
        q0, q1, q2, q3 = query[d], query[d + 1], query[d + 2], query[d + 3]
        q4, q5, q6, q7 = query[d + 4], query[d + 5], query[d + 6], query[d + 7]
        for token in range(len(age)):
            weight[token] += (
                q0 * static[row, d, token] + q1 * static[row, d + 1, token] + q2 * static[row, d + 2, token]
                + q3 * static[row, d + 3, token] + q4 * static[row, d + 4, token] + q5 * static[row, d + 5, token]
                + q6 * static[row, d + 6, token] + q7 * static[row, d + 7, token]
            )  # fmt: skip
    highest = MASKED
    for token in range(len(age)):
        score = weight[token] * scale[token] + slope * age[token] + beyond[token]
        weight[token] = score
        highest = score if score > highest else highest
    total = ZERO
    for token in range(len(age)):
        chance = exp(weight[token] - highest)
        total += chance
        weight[token] = chance * scale[token]
    share = ONE / total
    for token in range(len(age)):
        weight[token] *= share


@compiled
def _combine(histories: ProjectedTokens, row: int, weight: Floats32, age: Floats32, vector: Floats32) -> None:
    """Sum of weight * (static + age * age_weight)."""
    static = histories.static
    aged = ZERO
    for token in range(len(age)):
        aged += weight[token] * age[token]
    for d in range(0, static.shape[1], 4):
        s0 = s1 = s2 = s3 = ZERO
        for token in range(len(age)):
            w = weight[token]
            s0 += w * static[row, d, token]
            s1 += w * static[row, d + 1, token]
            s2 += w * static[row, d + 2, token]
            s3 += w * static[row, d + 3, token]
        vector[d] = s0 + aged * histories.age_weight[d]
        vector[d + 1] = s1 + aged * histories.age_weight[d + 1]
        vector[d + 2] = s2 + aged * histories.age_weight[d + 2]
        vector[d + 3] = s3 + aged * histories.age_weight[d + 3]
