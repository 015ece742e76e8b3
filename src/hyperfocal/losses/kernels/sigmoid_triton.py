"""The Triton functions of `cuda`; a file of its own because importing Triton takes a while.

The arithmetic is that of ``sigmoid.cpp``: exponentials as a polynomial times a power of two, whose
exponent is put together from exact parts. The hardware's own ``ex2`` and ``lg2`` would lose 1e-5 of
p^γ where the exponent is large.
"""

from __future__ import annotations

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.44269502162933349609375)
LOG2E_TAIL = tl.constexpr(1.92596299e-8)


@triton.jit
def exp2(r, n):
    """2^(r + n) for |r| <= 1/2 and whole n <= 0; 0 where that is below the least normal number."""
    y = tl.fma(r, 0.0013276449, 0.009675564)
    y = tl.fma(y, r, 0.05550713)
    y = tl.fma(y, r, 0.24022119)
    y = tl.fma(y, r, 0.69314697)
    y = tl.fma(y, r, 1.00000007)
    power = ((tl.maximum(n, -126.0).to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(n < -126.5, 0.0, y * power)


@triton.jit
def sigmoid_parts(x):
    """sigmoid(x), 1 - sigmoid(x), log1p(exp(-|x|)), each to the last digits."""
    a = -tl.abs(x)
    n = tl.floor(tl.fma(a, LOG2E, 0.5))
    e = exp2(tl.fma(a, LOG2E_TAIL, tl.fma(a, LOG2E, -n)), n)
    half = 1.0 + 0.5 * e
    d = 1.0 / ((1.0 + e) * half)
    r = half * d
    q = e * ((1.0 + e) * d)  # log1p(e) = 2 atanh(q / 2), q = e / (1 + e / 2)
    s = q * q
    y = tl.fma(s, 0.00055035811, 0.0021844221)
    y = tl.fma(y, s, 0.012507784)
    y = tl.fma(y, s, 0.083332893)
    y = tl.fma(y, s, 1.0)
    right = x >= 0.0
    return tl.where(right, r, e * r), tl.where(right, e * r, r), y * q


@triton.jit
def sigmoid_power(x, log1p, gamma):
    """sigmoid(x)^gamma from x and log1p(exp(-|x|))."""
    m = tl.minimum(x, 0.0)
    g = gamma * LOG2E
    tail = tl.fma(gamma, LOG2E, -g) + gamma * LOG2E_TAIL
    n = tl.floor(tl.fma(m - log1p, g, 0.5))
    t = tl.fma(m, tail, tl.fma(m, g, -n))
    return exp2(tl.fma(-log1p, g, t), n)


@triton.jit
def sigmoid_sum_kernel(
    logits,
    labels,
    table,
    quality,
    errors,  # of each row's own logit: its probability minus its quality
    grad,
    losses,
    sums,
    rows,
    cols,
    stride,
    first,
    POWER: tl.constexpr,  # 0: γ = 0, 2: γ = 2, -1: γ from the table
    WITH_QUALITY: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    WITH_SUMS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Every program has one block of columns and goes down the rows in strides.

    It leaves its sums per column in a row of ``losses`` and ``sums``, so that their total doesn't
    depend on which program comes first.
    """
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    in_cols = col < cols
    gamma = tl.load(table + col, mask=in_cols, other=0.0)[None, :]
    own_weight = tl.load(table + cols + col, mask=in_cols, other=0.0)[None, :]
    rest_weight = tl.load(table + 2 * cols + col, mask=in_cols, other=0.0)[None, :]
    loss_sum = tl.zeros([COLS], dtype=tl.float32)
    positive_sum = tl.zeros([COLS], dtype=tl.float32)
    negative_sum = tl.zeros([COLS], dtype=tl.float32)
    for start in range(tl.program_id(1) * ROWS, rows, tl.num_programs(1) * ROWS):
        row = start + tl.arange(0, ROWS)
        label = tl.load(labels + row, mask=row < rows, other=-1)
        inside = (row < rows)[:, None] & in_cols[None, :]
        kept = inside & (label >= 0)[:, None]
        wide = row.to(tl.int64)[:, None]
        given = tl.load(logits + wide * stride + col[None, :], mask=inside, other=0.0)
        given = given.to(tl.float32)
        positive = (label - first)[:, None] == col[None, :]
        x = tl.where(positive, -given, given)
        weight = tl.where(positive, own_weight, rest_weight)
        p, not_p, log1p = sigmoid_parts(x)
        softplus = tl.maximum(x, 0.0) + log1p
        if POWER == 0:
            loss = weight * softplus
            slope = weight * p
        else:
            if POWER == 2:
                power = weight * p * p
                focus = 2.0 * not_p
            else:
                power = weight * sigmoid_power(x, log1p, gamma)
                focus = gamma * not_p
            loss = power * softplus
            slope = power * tl.fma(focus, softplus, p)
        slope = tl.where(positive, -slope, slope)
        if WITH_QUALITY:
            # Here x is minus the logit: p is 1 - sigmoid(logit), not_p its sigmoid.
            q = tl.load(quality + row, mask=row < rows, other=0.0)[:, None]
            bce = q * softplus + (1.0 - q) * (tl.maximum(-x, 0.0) + log1p)
            off = tl.load(errors + row, mask=row < rows, other=0.0)[:, None]
            size = tl.abs(off)
            powered = tl.exp2(gamma * tl.log2(tl.maximum(size, 1e-37)))
            powered = tl.where((size == 0.0) & (gamma > 0.0), 0.0, powered)
            turn = tl.where(size == 0.0, 0.0, gamma * powered / tl.where(size == 0.0, 1.0, off))
            loss = tl.where(positive, weight * powered * bce, loss)
            slope = tl.where(positive, weight * (powered * off + turn * p * not_p * bce), slope)
        loss_sum += tl.sum(tl.where(kept, loss, 0.0), axis=0)
        slope = tl.where(kept, slope, 0.0)
        if WITH_GRAD:
            to = grad + wide * cols + col[None, :]
            tl.store(to, slope.to(grad.dtype.element_ty), mask=inside)
        if WITH_SUMS:
            size = tl.abs(slope)
            positive_sum += tl.sum(tl.where(positive, size, 0.0), axis=0)
            negative_sum += tl.sum(tl.where(positive, 0.0, size), axis=0)
    program = tl.program_id(1)
    tl.store(losses + program * cols + col, loss_sum, mask=in_cols)
    if WITH_SUMS:
        tl.store(sums + 2 * program * cols + col, positive_sum, mask=in_cols)
        tl.store(sums + (2 * program + 1) * cols + col, negative_sum, mask=in_cols)


@triton.jit
def scale_kernel(grad, factor, size, BLOCK: tl.constexpr):
    """Multiply in place; where the factor is 1, touch nothing."""
    by = tl.load(factor)
    if by != 1.0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(grad + at, mask=at < size).to(tl.float32)
        tl.store(grad + at, (value * by).to(grad.dtype.element_ty), mask=at < size)
