"""The GPU kernels of operator `mlp`; `triton_path` launches them.

A program holds a tile of rows, merges of one level, and carries them from the two children to the
parent without writing anything in between. The wide hidden layers pass through in blocks. States
have E features, which a tile holds in the next power of two, WIDE; what lies beyond E is zero.

The backward kernel computes a tile again, and writes the factors of the weights' gradients to a
tape, one row per merge. `weight_gradients` multiplies them, in an order that depends on the shapes
alone. Nothing is added atomically.

Weights stand as `folding.folded_layout` says; ``p`` is where those of a member begin.
"""

from __future__ import annotations

import triton
import triton.language as tl

# the interpreter cuts float32 off to bfloat16 where a GPU rounds, and multiplies bit patterns of
# bfloat16: so numbers are rounded before they are cut, and multiplied as float32
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

# where the parts of a tape's row begin, in multiples of E: the inputs of the matrices,
PAIR = tl.constexpr(0)
FIRST = tl.constexpr(2)
SECOND = tl.constexpr(4)
VALUES = tl.constexpr(8)
MERGED = tl.constexpr(10)
ACTIVE = tl.constexpr(11)
# the gradients of their outputs,
D_FIRST = tl.constexpr(15)
D_SECOND = tl.constexpr(17)
D_GATES = tl.constexpr(21)
D_MERGED = tl.constexpr(23)
D_ACTIVE = tl.constexpr(24)
D_SUMMED = tl.constexpr(28)
# and what the norm's weights sum over
D_SCALE = tl.constexpr(29)
D_SHIFT = tl.constexpr(30)
UNITS = tl.constexpr(31)


@triton.jit
def _mix(word):
    # `dropout._mix`; uint32 wraps by itself
    word = word ^ (word >> 16)
    word = word * 0x7FEB352D
    word = word ^ (word >> 15)
    word = word * 0x846CA68B
    return word ^ (word >> 16)


@triton.jit
def _mask_of_dropout(
    seed,
    numbers,
    member,
    merges,
    mask,
    threshold,
    keep,
    WIDE: tl.constexpr,
    NUMBERED: tl.constexpr,
):
    """Return 0 or 1 / keep for every feature of the parents; `dropout.is_kept`.

    NUMBERED: the merges' numbers are to be looked up.
    """
    first = tl.load(seed).to(tl.uint32)
    second = tl.load(seed + 1).to(tl.uint32)
    if NUMBERED:
        merges = tl.load(numbers + merges, mask=mask, other=0)
    rows = _mix((merges.to(tl.uint32) + member.to(tl.uint32) * 0x632BE59B) ^ first)
    features = tl.arange(0, WIDE).to(tl.uint32) * 0x9E3779B9
    words = _mix((rows[:, None] + features[None, :]) ^ second)
    return tl.where(words >= threshold.to(tl.uint32), 1.0 / keep, 0.0)


@triton.jit
def _vector(p, E: tl.constexpr, WIDE: tl.constexpr):
    """Return E numbers, float32 [1, WIDE]."""
    features = tl.arange(0, WIDE)
    if E == WIDE:
        found = tl.load(p + features)
    else:
        found = tl.load(p + features, mask=features < E, other=0.0)
    return found.to(tl.float32)[None, :]


@triton.jit
def _matrix(
    p,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    NUM_COLS: tl.constexpr,
):
    """Return [ROWS, COLS] with zeros beyond NUM_ROWS and NUM_COLS."""
    rows = tl.arange(0, ROWS)
    cols = tl.arange(0, COLS)
    where = p + rows[:, None] * STRIDE + cols[None, :]
    if ROWS == NUM_ROWS and COLS == NUM_COLS:
        found = tl.load(where)
    else:
        inside = (rows < NUM_ROWS)[:, None] & (cols < NUM_COLS)[None, :]
        found = tl.load(where, mask=inside, other=0.0)
    return found


@triton.jit
def _square(p, STRIDE: tl.constexpr, E: tl.constexpr, WIDE: tl.constexpr):
    return _matrix(p, STRIDE, WIDE, WIDE, E, E)


@triton.jit
def _cast(x, DTYPE: tl.constexpr):
    """Return x in a dtype, rounded to nearest even."""
    if _INTERPRETED and tl.bfloat16 == DTYPE and x.dtype == tl.float32:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + (((bits >> 16) & 1) + 0x7FFF)) & 0xFFFF0000
        x = bits.to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def _dot(x, weight, total, PRECISION: tl.constexpr):
    """Return ``total + x @ weight`` with the operands in the weights' dtype."""
    x = _cast(x, weight.dtype)
    if _INTERPRETED:
        x, weight = x.to(tl.float32), weight.to(tl.float32)
    return tl.dot(x, weight, total, input_precision=PRECISION)


@triton.jit
def _dot_back(d, weight, total, PRECISION: tl.constexpr):
    """Return ``total + d @ weight^T``."""
    return _dot(d, tl.trans(weight), total, PRECISION)


@triton.jit
def _put(tape, UNIT: tl.constexpr, values, mask, E: tl.constexpr, WIDE: tl.constexpr):
    """Write E features of every row to its place on the tape; ``tape`` [M] points to rows."""
    features = tl.arange(0, WIDE)
    where = tape[:, None] + (features + UNIT * E)[None, :]
    inside = mask[:, None] & (features < E)[None, :]
    tl.store(where, _cast(values, tape.dtype.element_ty), mask=inside)


@triton.jit
def _put_block(tape, begin, values, mask, BLOCK: tl.constexpr):
    """Write a block of a hidden layer, which begins at ``begin`` of every row."""
    where = tape[:, None] + (tl.arange(0, BLOCK) + begin)[None, :]
    tl.store(where, _cast(values, tape.dtype.element_ty), mask=mask[:, None])


@triton.jit
def _get_block(tape, begin, mask, BLOCK: tl.constexpr):
    """Read what `_put_block` wrote, after a barrier."""
    where = tape[:, None] + (tl.arange(0, BLOCK) + begin)[None, :]
    return tl.load(where, mask=mask[:, None], other=0.0).to(tl.float32)


@triton.jit
def _children(states, children, merges, mask, E: tl.constexpr, WIDE: tl.constexpr):
    """Return the left and the right child of every merge, [M, WIDE] each."""
    features = tl.arange(0, WIDE)
    inside = mask[:, None] & (features < E)[None, :]
    left = tl.load(children + 2 * merges, mask=mask, other=0).to(tl.int64)
    right = tl.load(children + 2 * merges + 1, mask=mask, other=0).to(tl.int64)
    l = tl.load(states + left[:, None] * E + features[None, :], mask=inside, other=0.0)
    r = tl.load(states + right[:, None] * E + features[None, :], mask=inside, other=0.0)
    return l, r


@triton.jit
def _merge(
    l,
    r,
    p,
    tape,
    mask,
    E: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    TAPED: tl.constexpr,
):
    """Return the parents of a tile and what its backward pass needs; see `merge_rows`.

    Hidden layers in blocks go to the tape where TAPED, and nowhere else.
    """
    w1, b1 = p, p + 4 * E * E
    w2, b2 = p + 4 * E * E + 2 * E, p + 12 * E * E + 2 * E
    w3, b3 = p + 12 * E * E + 6 * E, p + 20 * E * E + 6 * E
    nothing = tl.zeros((ROWS, WIDE), tl.float32)

    first_left = nothing + _vector(b1, E, WIDE)
    first_left = _dot(l, _square(w1, 2 * E, E, WIDE), first_left, PRECISION)
    first_left = _dot(r, _square(w1 + 2 * E * E, 2 * E, E, WIDE), first_left, PRECISION)
    first_left = tl.maximum(first_left, 0.0)
    first_right = nothing + _vector(b1 + E, E, WIDE)
    first_right = _dot(l, _square(w1 + E, 2 * E, E, WIDE), first_right, PRECISION)
    first_right = _dot(r, _square(w1 + 2 * E * E + E, 2 * E, E, WIDE), first_right, PRECISION)
    first_right = tl.maximum(first_right, 0.0)

    gate_left = nothing + _vector(b3, E, WIDE)
    gate_right = nothing + _vector(b3 + E, E, WIDE)
    for begin in range(0, 4 * E, BLOCK):
        second = tl.zeros((ROWS, BLOCK), tl.float32) + _vector(b2 + begin, BLOCK, BLOCK)
        upper = _matrix(w2 + begin, 4 * E, WIDE, BLOCK, E, BLOCK)
        second = _dot(first_left, upper, second, PRECISION)
        lower = _matrix(w2 + 4 * E * E + begin, 4 * E, WIDE, BLOCK, E, BLOCK)
        second = tl.maximum(_dot(first_right, lower, second, PRECISION), 0.0)
        if TAPED:
            _put_block(tape, SECOND * E + begin, second, mask, BLOCK)
        to_left = _matrix(w3 + begin * 2 * E, 2 * E, BLOCK, WIDE, BLOCK, E)
        gate_left = _dot(second, to_left, gate_left, PRECISION)
        to_right = _matrix(w3 + begin * 2 * E + E, 2 * E, BLOCK, WIDE, BLOCK, E)
        gate_right = _dot(second, to_right, gate_right, PRECISION)

    v, b = p + 20 * E * E + 8 * E, p + 22 * E * E + 8 * E
    merged = nothing + _vector(b, E, WIDE)
    merged = _dot(gate_left * l.to(tl.float32), _square(v, E, E, WIDE), merged, PRECISION)
    below = v + E * E
    merged = _dot(gate_right * r.to(tl.float32), _square(below, E, E, WIDE), merged, PRECISION)

    f1, c1 = p + 22 * E * E + 9 * E, p + 26 * E * E + 9 * E
    f2, c2 = p + 26 * E * E + 13 * E, p + 30 * E * E + 13 * E
    summed = merged + _vector(c2, E, WIDE)
    for begin in range(0, 4 * E, BLOCK):
        active = tl.zeros((ROWS, BLOCK), tl.float32) + _vector(c1 + begin, BLOCK, BLOCK)
        active = _dot(merged, _matrix(f1 + begin, 4 * E, WIDE, BLOCK, E, BLOCK), active, PRECISION)
        active = tl.maximum(active, 0.0)
        if TAPED:
            _put_block(tape, ACTIVE * E + begin, active, mask, BLOCK)
        summed = _dot(active, _matrix(f2 + begin * E, E, BLOCK, WIDE, BLOCK, E), summed, PRECISION)

    # the layer norm of `reference`, over E and not over WIDE features
    mean = tl.sum(summed, axis=1) / E
    centred = summed - mean[:, None]
    if E != WIDE:
        centred = tl.where((tl.arange(0, WIDE) < E)[None, :], centred, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / E + 1e-5)
    normed = centred * scale[:, None]
    weight = _vector(p + 30 * E * E + 14 * E, E, WIDE)
    state = normed * weight + _vector(p + 30 * E * E + 15 * E, E, WIDE)
    return state, first_left, first_right, gate_left, gate_right, merged, normed, scale


@triton.jit
def _span(
    bounds, level, program, num_groups, first_bound, first, last, per_program, GROUPED: tl.constexpr
):
    """Return the merges of a level that are this program's, from and up to."""
    if GROUPED:
        row = bounds + first_bound + level * (num_groups + 1)
        begin = tl.load(row + program * per_program)
        end = tl.load(row + tl.minimum((program + 1) * per_program, num_groups))
    else:
        begin = first + program * per_program
        end = tl.minimum(begin + per_program, last)
    return begin, end


@triton.jit(
    do_not_specialize=[
        "num_inputs",
        "num_nodes",
        "num_weights",
        "num_groups",
        "first_bound",
        "first",
        "last",
    ]
)
def forward_kernel(
    states,
    folded,
    seed,
    children,
    bounds,
    numbers,
    num_inputs,
    num_nodes,
    num_weights,
    num_levels,
    num_groups,
    first_bound,
    first,
    last,
    per_program,
    threshold,
    keep,
    E: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    GROUPED: tl.constexpr,
    DROPS: tl.constexpr,
    NUMBERED: tl.constexpr,
):
    """Fill in the states of parents, of several levels or of one.

    Program (i, p) is the i-th of member p. GROUPED: it walks up the levels of ``per_program``
    groups of a phase, because nobody else in this launch reads or writes their nodes. Otherwise it
    takes ``per_program`` merges of those from ``first`` up to ``last``.
    """
    program, member = tl.program_id(0), tl.program_id(1).to(tl.int64)
    states += member * num_nodes * E
    p = folded + member * num_weights
    features = tl.arange(0, WIDE)
    for level in range(num_levels):
        begin, end = _span(
            bounds, level, program, num_groups, first_bound, first, last, per_program, GROUPED
        )
        for row in range(begin, end, ROWS):
            merges = row + tl.arange(0, ROWS)
            mask = merges < end
            l, r = _children(states, children, merges.to(tl.int64), mask, E, WIDE)
            state, _, _, _, _, _, _, _ = _merge(
                l, r, p, states, mask, E, WIDE, ROWS, BLOCK, PRECISION, False
            )
            if DROPS:
                state *= _mask_of_dropout(
                    seed, numbers, member, merges, mask, threshold, keep, WIDE, NUMBERED
                )
            where = states + (num_inputs + merges).to(tl.int64)[:, None] * E + features[None, :]
            inside = mask[:, None] & (features < E)[None, :]
            tl.store(where, _cast(state, states.dtype.element_ty), mask=inside)
        # the next level reads what other threads of this program wrote
        tl.debug_barrier()


@triton.jit
def _gradient(edges, readers, reader_starts, nodes, mask, E: tl.constexpr, WIDE: tl.constexpr):
    """Return the sum of the edges that read each node, float32 [M, WIDE]."""
    features = tl.arange(0, WIDE)
    begin = tl.load(reader_starts + nodes, mask=mask, other=0)
    count = tl.load(reader_starts + nodes + 1, mask=mask, other=0) - begin
    d = tl.zeros((nodes.shape[0], WIDE), tl.float32)
    for k in range(tl.max(count, axis=0)):
        edge = tl.load(readers + begin + k, mask=k < count, other=0).to(tl.int64)
        inside = (k < count)[:, None] & (features < E)[None, :]
        d += tl.load(edges + edge[:, None] * E + features[None, :], mask=inside, other=0.0)
    return d


@triton.jit
def _merge_backward(
    d,
    l,
    r,
    p,
    tape,
    mask,
    E: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the gradients of both children, and write a tile's rows of the tape."""
    _, first_left, first_right, gate_left, gate_right, merged, normed, scale = _merge(
        l, r, p, tape, mask, E, WIDE, ROWS, BLOCK, PRECISION, True
    )
    _put(tape, PAIR, l, mask, E, WIDE)
    _put(tape, PAIR + 1, r, mask, E, WIDE)
    _put(tape, FIRST, first_left, mask, E, WIDE)
    _put(tape, FIRST + 1, first_right, mask, E, WIDE)
    _put(tape, MERGED, merged, mask, E, WIDE)
    _put(tape, D_SHIFT, d, mask, E, WIDE)
    _put(tape, D_SCALE, d * normed, mask, E, WIDE)
    # hidden layers are read back by other threads than those that wrote them
    tl.debug_barrier()

    # layer norm
    d_normed = d * _vector(p + 30 * E * E + 14 * E, E, WIDE)
    mean = tl.sum(d_normed, axis=1) / E
    slope = tl.sum(d_normed * normed, axis=1) / E
    d_summed = (d_normed - mean[:, None] - normed * slope[:, None]) * scale[:, None]
    if E != WIDE:
        d_summed = tl.where((tl.arange(0, WIDE) < E)[None, :], d_summed, 0.0)
    _put(tape, D_SUMMED, d_summed, mask, E, WIDE)

    # node FFN with its residual
    f1, f2 = p + 22 * E * E + 9 * E, p + 26 * E * E + 13 * E
    d_merged = d_summed
    for begin in range(0, 4 * E, BLOCK):
        d_active = tl.zeros((ROWS, BLOCK), tl.float32)
        out_of = _matrix(f2 + begin * E, E, BLOCK, WIDE, BLOCK, E)
        d_active = _dot_back(d_summed, out_of, d_active, PRECISION)
        is_active = _get_block(tape, ACTIVE * E + begin, mask, BLOCK) > 0
        d_active = tl.where(is_active, d_active, 0.0)
        _put_block(tape, D_ACTIVE * E + begin, d_active, mask, BLOCK)
        into = _matrix(f1 + begin, 4 * E, WIDE, BLOCK, E, BLOCK)
        d_merged = _dot_back(d_active, into, d_merged, PRECISION)
    _put(tape, D_MERGED, d_merged, mask, E, WIDE)

    # the gated sum
    nothing = tl.zeros((ROWS, WIDE), tl.float32)
    v = p + 20 * E * E + 8 * E
    l, r = l.to(tl.float32), r.to(tl.float32)
    _put(tape, VALUES, gate_left * l, mask, E, WIDE)
    _put(tape, VALUES + 1, gate_right * r, mask, E, WIDE)
    d_value = _dot_back(d_merged, _square(v, E, E, WIDE), nothing, PRECISION)
    d_left, d_gate_left = d_value * gate_left, d_value * l
    d_value = _dot_back(d_merged, _square(v + E * E, E, E, WIDE), nothing, PRECISION)
    d_right, d_gate_right = d_value * gate_right, d_value * r
    _put(tape, D_GATES, d_gate_left, mask, E, WIDE)
    _put(tape, D_GATES + 1, d_gate_right, mask, E, WIDE)

    # the network of the gates
    w1, w2, w3 = p, p + 4 * E * E + 2 * E, p + 12 * E * E + 6 * E
    d_first_left, d_first_right = nothing, nothing
    for begin in range(0, 4 * E, BLOCK):
        d_second = tl.zeros((ROWS, BLOCK), tl.float32)
        to_left = _matrix(w3 + begin * 2 * E, 2 * E, BLOCK, WIDE, BLOCK, E)
        d_second = _dot_back(d_gate_left, to_left, d_second, PRECISION)
        to_right = _matrix(w3 + begin * 2 * E + E, 2 * E, BLOCK, WIDE, BLOCK, E)
        d_second = _dot_back(d_gate_right, to_right, d_second, PRECISION)
        is_active = _get_block(tape, SECOND * E + begin, mask, BLOCK) > 0
        d_second = tl.where(is_active, d_second, 0.0)
        _put_block(tape, D_SECOND * E + begin, d_second, mask, BLOCK)
        upper = _matrix(w2 + begin, 4 * E, WIDE, BLOCK, E, BLOCK)
        lower = _matrix(w2 + 4 * E * E + begin, 4 * E, WIDE, BLOCK, E, BLOCK)
        d_first_left = _dot_back(d_second, upper, d_first_left, PRECISION)
        d_first_right = _dot_back(d_second, lower, d_first_right, PRECISION)
    d_first_left = tl.where(first_left > 0, d_first_left, 0.0)
    d_first_right = tl.where(first_right > 0, d_first_right, 0.0)
    _put(tape, D_FIRST, d_first_left, mask, E, WIDE)
    _put(tape, D_FIRST + 1, d_first_right, mask, E, WIDE)
    d_left = _dot_back(d_first_left, _square(w1, 2 * E, E, WIDE), d_left, PRECISION)
    d_left = _dot_back(d_first_right, _square(w1 + E, 2 * E, E, WIDE), d_left, PRECISION)
    below = w1 + 2 * E * E
    d_right = _dot_back(d_first_left, _square(below, 2 * E, E, WIDE), d_right, PRECISION)
    d_right = _dot_back(d_first_right, _square(below + E, 2 * E, E, WIDE), d_right, PRECISION)
    return d_left, d_right


@triton.jit(
    do_not_specialize=[
        "num_inputs",
        "num_nodes",
        "num_weights",
        "num_results",
        "num_edges",
        "tape_first",
        "num_groups",
        "first_bound",
        "first",
        "last",
    ]
)
def backward_kernel(
    states,
    edges,
    folded,
    tape,
    seed,
    children,
    readers,
    reader_starts,
    bounds,
    numbers,
    num_inputs,
    num_nodes,
    num_weights,
    num_results,
    num_edges,
    tape_first,
    tape_rows,
    num_levels,
    num_groups,
    first_bound,
    first,
    last,
    per_program,
    threshold,
    keep,
    E: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    GROUPED: tl.constexpr,
    DROPS: tl.constexpr,
    NUMBERED: tl.constexpr,
):
    """Write both edges of every merge, and its row of the tape; programs as in `forward_kernel`.

    The tape begins with merge ``tape_first`` and has ``tape_rows`` rows per member.
    """
    program, member = tl.program_id(0), tl.program_id(1).to(tl.int64)
    states += member * num_nodes * E
    edges += member * num_edges * E
    tape += member * tape_rows * UNITS * E
    p = folded + member * num_weights
    features = tl.arange(0, WIDE)
    for step in range(num_levels):
        level = num_levels - 1 - step
        begin, end = _span(
            bounds, level, program, num_groups, first_bound, first, last, per_program, GROUPED
        )
        for row in range(begin, end, ROWS):
            merges = row + tl.arange(0, ROWS)
            mask = merges < end
            l, r = _children(states, children, merges.to(tl.int64), mask, E, WIDE)
            d = _gradient(edges, readers, reader_starts, num_inputs + merges, mask, E, WIDE)
            if DROPS:
                d *= _mask_of_dropout(
                    seed, numbers, member, merges, mask, threshold, keep, WIDE, NUMBERED
                )
            rows_of_tape = tape + (merges - tape_first).to(tl.int64) * UNITS * E
            d_left, d_right = _merge_backward(
                d, l, r, p, rows_of_tape, mask, E, WIDE, ROWS, BLOCK, PRECISION
            )
            edge = (num_results + 2 * merges.to(tl.int64))[:, None] * E + features[None, :]
            inside = mask[:, None] & (features < E)[None, :]
            tl.store(edges + edge, d_left, mask=inside)
            tl.store(edges + edge + E, d_right, mask=inside)
        # the level below reads the edges that other threads of this program wrote
        tl.debug_barrier()


@triton.jit(do_not_specialize=["num_rows", "tape_rows", "num_weights"])
def weight_gradients(
    tape,
    partial,
    tiles,
    num_rows,
    tape_rows,
    num_weights,
    rows_per_split,
    E: tl.constexpr,
    SIDE: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add ``x^T d`` of a range of the tape's rows to one square of one matrix's gradient.

    Program (t, s, p): tile t of member p, rows of split s, into ``partial`` [P, splits, S]. A row
    of ``tiles`` int32 [., 5] says where x and d stand in a tape's row, where the square begins in
    the folded weights (-1 where there is none), its stride, and where the sum of d goes (-1 where
    it goes nowhere).
    """
    tile, split, member = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    x_begin, d_begin = tl.load(tiles + tile * 5), tl.load(tiles + tile * 5 + 1)
    square, stride = tl.load(tiles + tile * 5 + 2), tl.load(tiles + tile * 5 + 3)
    vector = tl.load(tiles + tile * 5 + 4)
    side = tl.arange(0, SIDE)
    is_feature = side < E
    total = tl.zeros((SIDE, SIDE), tl.float32)
    sums = tl.zeros((SIDE,), tl.float32)
    tape += member * tape_rows * UNITS * E
    begin = split * rows_per_split
    for row in range(begin, tl.minimum(begin + rows_per_split, num_rows), ROWS):
        rows = row + tl.arange(0, ROWS)
        mask = (rows < num_rows) & (rows < begin + rows_per_split)
        where = tape + rows.to(tl.int64)[:, None] * (UNITS * E) + side[None, :]
        x = tl.load(where + x_begin, mask=mask[:, None] & is_feature[None, :], other=0.0)
        d = tl.load(where + d_begin, mask=mask[:, None] & is_feature[None, :], other=0.0)
        total = _dot(tl.trans(x), d, total, PRECISION)
        sums += tl.sum(d.to(tl.float32), axis=0)
    partial += (member * tl.num_programs(1) + split) * num_weights
    if square >= 0:
        where = partial + square + side[:, None] * stride + side[None, :]
        inside = is_feature[:, None] & is_feature[None, :]
        tl.store(where, tl.load(where, mask=inside, other=0.0) + total, mask=inside)
    if vector >= 0:
        where = partial + vector + side
        tl.store(where, tl.load(where, mask=is_feature, other=0.0) + sums, mask=is_feature)
