"""The Triton functions of `cuda`, in a separate file because importing Triton is slow.

The logits are one flat array, split into chunks of V elements. A lane processes one chunk, then the
one ``step`` chunks later, and so on. step · V is a multiple of K, so a lane keeps its columns:
their settings and sums stay in registers, and all loads and stores are aligned and contiguous for
any K. In most iterations a program has no labelled or ignored rows: then the shorter formula of a
negative is used, which doesn't read labels.

DIGITS selects the arithmetic. 6, for float32 logits: accurate to 3e-6, with exponents in two parts.
5 and 4, for 16-bit logits with and without a power: accurate to 1e-4 before the gradient is
rounded.
"""

from __future__ import annotations

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.44269502162933349609375)
LOG2E_TAIL = tl.constexpr(1.92596299e-8)
LN2 = tl.constexpr(0.693147182464599609375)
NOWHERE = tl.constexpr(1 << 30)


@triton.jit
def exp2(x, HARDWARE: tl.constexpr):
    """2^x to 2^-22; 0 where the result is below the smallest normal number."""
    if HARDWARE:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.exp2(x)


@triton.jit
def log2(x, HARDWARE: tl.constexpr):
    """Logarithm to base 2, to 2^-22."""
    if HARDWARE:
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.log2(x)


@triton.jit
def reciprocal(x, HARDWARE: tl.constexpr):
    """1 / x to 2^-23."""
    if HARDWARE:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 1.0 / x


@triton.jit
def not_hoisted(x, HARDWARE: tl.constexpr):
    """int32 ``x``; keeps the compiler from hoisting computations on it, which costs registers."""
    if HARDWARE:
        return tl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", [x], dtype=tl.int32, is_pure=False, pack=1
        )
    else:
        return x


@triton.jit
def log1p_over(e, DIGITS: tl.constexpr):
    """log(1 + e) / e for 0 <= e <= 1, a minimax polynomial: relative error below 10^-DIGITS."""
    if DIGITS == 6:
        y = tl.fma(e, -0.008539211, 0.044089653)
        y = tl.fma(e, y, -0.10768176)
        y = tl.fma(e, y, 0.17745246)
        y = tl.fma(e, y, -0.24495466)
        y = tl.fma(e, y, 0.3327548)
        y = tl.fma(e, y, -0.49997404)
        return tl.fma(e, y, 0.9999998)
    elif DIGITS == 5:
        y = tl.fma(e, -0.023869159, 0.10122233)
        y = tl.fma(e, y, -0.21004876)
        y = tl.fma(e, y, 0.32520673)
        y = tl.fma(e, y, -0.49936137)
        return tl.fma(e, y, 0.9999916)
    else:
        y = tl.fma(e, 0.041347314, -0.15742728)
        y = tl.fma(e, y, 0.30630103)
        y = tl.fma(e, y, -0.49697784)
        return tl.fma(e, y, 0.99994326)


@triton.jit
def sigmoid_parts(x, DIGITS: tl.constexpr, HARDWARE: tl.constexpr):
    """sigmoid(x), 1 - sigmoid(x), softplus(x), log1p(exp(-|x|))."""
    if DIGITS == 6:
        a = tl.maximum(-tl.abs(x), -110.0, propagate_nan=tl.PropagateNan.ALL)
        high = a * LOG2E
        low = tl.fma(a, LOG2E_TAIL, tl.fma(a, LOG2E, -high))
        e = exp2(high, HARDWARE)
        e = tl.fma(e, low * LN2, e)
    else:
        e = exp2(tl.abs(x) * -LOG2E, HARDWARE)
    r = reciprocal(1.0 + e, HARDWARE)
    er = e * r
    y = log1p_over(e, DIGITS)
    right = x >= 0.0
    p, not_p = tl.where(right, r, er), tl.where(right, er, r)
    return p, not_p, tl.fma(e, y, tl.maximum(x, 0.0)), e * y


@triton.jit
def sigmoid_power(x, small, gamma, HARDWARE: tl.constexpr):
    """sigmoid(x)^gamma from log1p(exp(-|x|)), to 1e-6."""
    m = tl.minimum(tl.maximum(x, -1e30), 0.0)
    g = gamma * LOG2E
    tail = tl.fma(gamma, LOG2E, -g) + gamma * LOG2E_TAIL
    high = m * g
    low = tl.fma(-small, g, tl.fma(m, tail, tl.fma(m, g, -high)))
    z = high + low
    rest = low - (z - high)
    y = exp2(z, HARDWARE)
    return tl.fma(y, rest * LN2, y)


@triton.jit
def negative(x, gamma, weight, POWER: tl.constexpr, DIGITS: tl.constexpr, HARDWARE: tl.constexpr):
    """Loss over its last factor, that factor, and derivative, of negatives.

    With DIGITS 5, ``weight`` is the weight's logarithm to base 2, added to the power's exponent.
    """
    p, not_p, softplus, small = sigmoid_parts(x, DIGITS, HARDWARE)
    if POWER == 0:
        return weight, softplus, weight * p
    elif POWER == 2:
        power = weight * (p * p)
        return power, softplus, power * tl.fma(not_p * softplus, 2.0, p)
    else:
        if DIGITS == 6:
            power = weight * sigmoid_power(x, small, gamma, HARDWARE)
        else:  # log sigmoid(x) = x - softplus(x); where that cancels, the power is 1
            power = exp2(tl.fma(gamma, (x - softplus) * LOG2E, weight), HARDWARE)
        return power, softplus, power * tl.fma(not_p * softplus, gamma, p)


@triton.jit
def any_logit(
    given,
    positive,
    kept,
    gamma,
    own,
    rest,
    q,
    off,
    POWER: tl.constexpr,
    WITH_QUALITY: tl.constexpr,
    DIGITS: tl.constexpr,
    HARDWARE: tl.constexpr,
):
    """Loss and derivative of positives and negatives; 0 where they are ignored."""
    x = tl.where(positive, -given, given)
    weight = tl.where(positive, own, rest)
    if DIGITS == 5:
        power, softplus, slope = negative(x, gamma, 0.0, POWER, DIGITS, HARDWARE)
        power, slope = weight * power, weight * slope
    else:
        power, softplus, slope = negative(x, gamma, weight, POWER, DIGITS, HARDWARE)
    loss = power * softplus
    slope = tl.where(positive, -slope, slope)
    if WITH_QUALITY:
        # Here x is minus the logit: p is 1 - sigmoid(logit), not_p its sigmoid.
        p, not_p, _, small = sigmoid_parts(x, DIGITS, HARDWARE)
        bce = q * softplus + (1.0 - q) * (tl.maximum(-x, 0.0) + small)
        size = tl.abs(off)
        powered = tl.exp2(gamma * tl.log2(tl.maximum(size, 1e-37)))
        powered = tl.where((size == 0.0) & (gamma > 0.0), 0.0, powered)
        turn = tl.where(size == 0.0, 0.0, gamma * powered / tl.where(size == 0.0, 1.0, off))
        loss = tl.where(positive, weight * powered * bce, loss)
        slope = tl.where(positive, weight * (powered * off + turn * p * not_p * bce), slope)
    return tl.where(kept, loss, 0.0), tl.where(kept, slope, 0.0)


@triton.jit(do_not_specialize=["size", "cols", "steps", "step", "row_step", "first", "background"])
def sigmoid_sum_kernel(
    logits,
    labels,
    table,
    quality,
    errors,  # probability minus quality of each row's labelled logit
    grad,
    losses,  # one per program
    sums,  # (2, step * V): of positives, initialised to 0 here, and of negatives
    size,  # number of logits
    cols,
    steps,  # iterations in which every lane has a full chunk
    step,  # chunks between successive chunks of a lane; step * V is a multiple of cols
    row_step,  # step * V / cols
    first,  # category of column 0
    background,  # largest label
    POWER: tl.constexpr,  # 0: γ = 0, 2: γ = 2, -1: γ from the table
    WITH_QUALITY: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    WITH_SUMS: tl.constexpr,
    DIGITS: tl.constexpr,
    HARDWARE: tl.constexpr,
    ROWS: tl.constexpr,  # rows that a chunk can span: 1, 2
    V: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Loss, gradient and the sums of its absolute values, in one pass."""
    lane = tl.program_id(0) * CHUNKS + tl.arange(0, CHUNKS)
    active = lane < step
    lane = tl.where(active, lane, 0)  # idle lanes repeat the first and store nothing
    element = tl.arange(0, V)[None, :]
    at = lane[:, None] * V + element
    stored = active[:, None] & (element >= 0)
    start_row = lane.to(tl.int64) * V // cols
    start_col = (lane.to(tl.int64) * V - start_row * cols).to(tl.int32)
    second_row = start_row + tl.where(cols - start_col < V, 1, 0)
    col = (start_col[:, None] + element) % cols

    gamma = tl.full([1, 1], 2.0, tl.float32)
    if POWER != 2:
        gamma = tl.load(table + col)
        if DIGITS < 6:  # 0 gives NaN with an infinite logit
            gamma = tl.where(gamma == 0.0, 1e-30, gamma)
    weight = tl.load(table + 2 * cols + col)
    if DIGITS == 5:
        weight = log2(weight, HARDWARE)
    loss_sum = tl.zeros([CHUNKS, V], dtype=tl.float32)
    negative_sum = tl.zeros([CHUNKS, V], dtype=tl.float32)

    if WITH_SUMS:
        tl.store(sums + at, tl.zeros([CHUNKS, V], dtype=tl.float32), mask=stored)
    # Loads are one chunk ahead, so that arithmetic hides their latency.
    whole = tl.where(active, steps, 0) > 0
    ahead = tl.load(logits + at, mask=whole[:, None] & (element >= 0))
    near_ahead = tl.load(labels + start_row, mask=whole)
    far_ahead = near_ahead
    if ROWS == 2:
        far_ahead = tl.load(labels + second_row, mask=whole)
    for i in range(steps):
        turns = tl.cast(i, tl.int64)
        base = turns * step * V
        base_row = turns * row_step
        given, near, far = ahead.to(tl.float32), near_ahead, far_ahead
        turns = tl.minimum(turns + 1, steps - 1)
        ahead = tl.load(logits + turns * step * V + at)
        near_ahead = tl.load(labels + turns * row_step + start_row)
        far_ahead = near_ahead
        if ROWS == 2:
            far_ahead = tl.load(labels + turns * row_step + second_row)
        special = tl.where((near != background) | (far != background), 1, 0)
        if tl.max(special) == 0:
            power, softplus, slope = negative(given, gamma, weight, POWER, DIGITS, HARDWARE)
            loss_sum = tl.fma(power, softplus, loss_sum)
            if WITH_SUMS:
                negative_sum += tl.abs(slope)
        else:
            flat_col = not_hoisted(start_col, HARDWARE)[:, None] + element
            turn = tl.where(flat_col >= cols, 1, 0)
            column = flat_col - turn * cols
            label = near[:, None]
            if ROWS == 2:
                label = tl.where(turn == 0, label, far[:, None])
            own = tl.load(table + cols + column)
            rest = weight
            if DIGITS == 5:
                rest = tl.load(table + 2 * cols + column)
            q, off = 0.0, 0.0
            if WITH_QUALITY:
                row = start_row[:, None] + turn
                q = tl.load(quality + base_row + row)
                off = tl.load(errors + base_row + row)
            positive = label == first + column
            loss, slope = any_logit(
                given,
                positive,
                label >= 0,
                gamma,
                own,
                rest,
                q,
                off,
                POWER,
                WITH_QUALITY,
                DIGITS,
                HARDWARE,
            )
            loss_sum += loss
            if WITH_SUMS:
                size_here = tl.abs(slope)
                negative_sum += tl.where(positive, 0.0, size_here)
                so_far = tl.load(sums + at)
                tl.store(sums + at, so_far + tl.where(positive, size_here, 0.0), mask=stored)
        if WITH_GRAD:
            tl.store(grad + base + at, slope.to(grad.dtype.element_ty), mask=stored)

    # The remainder: at most one chunk per lane, of which the last may be partial.
    base = steps.to(tl.int64) * step * V
    base_row = steps.to(tl.int64) * row_step
    inside = stored & (base + at < size)
    given = tl.load(logits + base + at, mask=inside, other=0.0).to(tl.float32)
    flat_col = not_hoisted(start_col, HARDWARE)[:, None] + element
    turn = flat_col // cols
    column = flat_col - turn * cols
    row = start_row[:, None] + turn
    label = tl.load(labels + base_row + row, mask=inside, other=-1)
    own = tl.load(table + cols + column)
    rest = weight
    if DIGITS == 5:
        rest = tl.load(table + 2 * cols + column)
    q, off = 0.0, 0.0
    if WITH_QUALITY:
        q = tl.load(quality + base_row + row, mask=inside, other=0.0)
        off = tl.load(errors + base_row + row, mask=inside, other=0.0)
    positive = label == first + column
    loss, slope = any_logit(
        given,
        positive,
        label >= 0,
        gamma,
        own,
        rest,
        q,
        off,
        POWER,
        WITH_QUALITY,
        DIGITS,
        HARDWARE,
    )
    if WITH_GRAD:
        tl.store(grad + base + at, slope.to(grad.dtype.element_ty), mask=inside)
    tl.store(losses + tl.program_id(0), tl.sum(tl.where(stored, loss_sum + loss, 0.0)))
    if WITH_SUMS:
        size_here = tl.abs(slope)
        so_far = tl.load(sums + at)
        tl.store(sums + at, so_far + tl.where(positive, size_here, 0.0), mask=stored)
        negative_sum += tl.where(positive, 0.0, size_here)
        tl.store(sums + step.to(tl.int64) * V + at, negative_sum, mask=stored)


@triton.jit
def scale_kernel(grad, factor, size, BLOCK: tl.constexpr):
    """Multiply in place; no memory access if the factor is 1."""
    by = tl.load(factor)
    if by != 1.0:
        start = tl.program_id(0).to(tl.int64) * BLOCK
        while start < size:
            at = start + tl.arange(0, BLOCK)
            value = tl.load(grad + at, mask=at < size).to(tl.float32)
            tl.store(grad + at, (value * by).to(grad.dtype.element_ty), mask=at < size)
            start += tl.num_programs(0).to(tl.int64) * BLOCK


@triton.jit(do_not_specialize=["size", "cols", "step"])
def add_to_columns_kernel(rows, values, size, cols, step, V: tl.constexpr, CHUNKS: tl.constexpr):
    """Add one value per column in place; lanes keep their columns as in `sigmoid_sum_kernel`."""
    lane = tl.program_id(0) * CHUNKS + tl.arange(0, CHUNKS)
    active = lane < step
    element = tl.arange(0, V)[None, :]
    at = lane[:, None] * V + element
    added = tl.load(values + at % cols).to(tl.float32)
    turns = tl.cast(size, tl.int64) // V // step
    last = size - turns * step * V
    for turn in range(turns):
        to = rows + tl.cast(turn, tl.int64) * step * V + at
        value = tl.load(to, mask=active[:, None] & (element >= 0)).to(tl.float32) + added
        tl.store(to, value.to(rows.dtype.element_ty), mask=active[:, None] & (element >= 0))
    inside = active[:, None] & (at < last)
    to = rows + turns * step * V + at
    value = tl.load(to, mask=inside, other=0.0).to(tl.float32) + added
    tl.store(to, value.to(rows.dtype.element_ty), mask=inside)
