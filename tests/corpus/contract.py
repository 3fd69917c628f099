"""The contract beside the formula: purity, fresh results, shapes, dtypes, every layout.

The formulas are plain here. Most entries give the right values on their sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, tensor

from backprop_ops import Kept, sum_to
from tests.corpus import right, wrong
from tests.corpus.kinds import Kind
from tests.corpus.samples import draw, draws, positive

X = draw(3, 4)
TWO = draws((3, 4), (3, 4))
AFFINE = draws((3, 4), (4,), (4,))
MASK = draw(3, 4, seed=1) > 0
X32 = draw(3, 4, dtype=torch.float32)
FACTOR = tensor(1.5, dtype=torch.float64)
ALL = torch.ones(3, 4, dtype=torch.bool)


def square(x: Tensor) -> Tensor:
    return x * x


def square_of_rows(dout: Tensor, x: Tensor, rows: int) -> Tensor:
    """The other rows keep a zero."""
    dx = torch.zeros_like(x)
    dx[:rows] = 2 * dout[:rows] * x[:rows]
    return dx


def dense_strides(shape: torch.Size) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


@right(square, X)
def in_place_on_a_copy(dout, x):
    return dout.clone().mul_(x).mul_(2)


@right(square, draw(6, 3))
def blocks_of_four_rows_and_what_is_left(dout, x):
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    for start in range(0, len(x), 4):
        block = slice(start, start + 4)
        torch.mul(dout[block], 2 * x[block], out=dx[block])
    return dx


@right(square, X)
def upstream_scaled_before_and_after(dout, x):
    """Divided by its largest entry and multiplied again, unless that is zero."""
    size = dout.abs().amax() if dout.numel() else dout.new_ones(())
    size = torch.where(size == 0, 1, size)
    return (dout / size) * x * 2 * size


@right(square, X)
def early_exit_for_a_zero_upstream(dout, x):
    return 2 * dout * x if dout.any() else torch.zeros_like(x)


@right(square, X)
def by_autograd(dout, x):
    with torch.enable_grad():
        copy = x.detach().requires_grad_()
        (dx,) = torch.autograd.grad(square(copy), copy, dout)
    return dx


@right(square, X32)
def in_float64_and_cast_back(dout, x):
    return (2 * dout.double() * x.double()).to(x.dtype)


@right(square, X)
def asks_for_more_than_it_needs(dout, x, out):
    return 2 * dout * x


@right(square, X)
def upstream_read_with_its_own_strides(dout, x):
    return 2 * x * dout.as_strided(dout.shape, dout.stride(), dout.storage_offset())


@wrong(square, X, kind=Kind.OVERWRITTEN, mistake=("mutates-upstream", "aliased"), property="purity")
def in_place_on_the_upstream(dout, x):
    return dout.mul_(2 * x)


@wrong(square, X, kind=Kind.OVERWRITTEN, mistake=("mutates-upstream", "aliased"))
def contiguous_taken_for_a_copy(dout, x):
    """``contiguous`` copies only what is not contiguous."""
    return dout.contiguous().mul_(x).mul_(2)


@wrong(square, X, kind=Kind.OVERWRITTEN, mistake="mutates-upstream")
def in_place_on_the_flattened_upstream(dout, x):
    flat = dout.reshape(-1)
    flat *= 2 * x.reshape(-1)
    return flat.reshape(x.shape).clone()


@wrong(square, X, kind=Kind.OVERWRITTEN, mistake="mutates-upstream")
def in_place_on_the_detached_upstream(dout, x):
    g = dout.detach()
    g *= x
    return 2 * g


@wrong(square, X, kind=Kind.OVERWRITTEN, mistake="mutates-upstream")
def upstream_changed_and_changed_back(dout, x):
    """It is the old one up to rounding, and only where x is not zero."""
    dx = dout.mul_(x) * 2
    dout.div_(x)
    return dx


SUMS: dict[tuple[torch.Size, torch.dtype], Tensor] = {}


@wrong(square, X, kind=Kind.STALE, mistake="state")
def added_to_the_last_call(dout, x):
    """Accumulated like ``.grad``."""
    key = (x.shape, x.dtype)
    SUMS[key] = SUMS.get(key, 0) + 2 * dout * x
    return SUMS[key].clone()


@wrong(square, X, kind=Kind.OTHER, mistake="nondeterministic")
def half_of_the_entries_at_random(dout, x):
    """An estimate that is right on average."""
    return 4 * dout * x * (torch.rand(x.shape, device=x.device) < 0.5)


@wrong(square, X32, kind=Kind.OTHER, mistake="nondeterministic")
def noise_of_1e_8(dout, x):
    return 2 * dout * x * (1 + 1e-8 * torch.randn_like(x))


@wrong(square, draw(8, 2), kind=Kind.STALE, mistake=("ignored-rows", "nondeterministic", "nan"))
def last_rows_not_written(dout, x):
    """Whole blocks of four rows are written."""
    dx = torch.empty_like(x)
    for start in range(0, len(x) - 3, 4):
        dx[start : start + 4] = 2 * dout[start : start + 4] * x[start : start + 4]
    return dx


@wrong(square, X, kind=Kind.MISSING, mistake="none-gradient")
def none_for_a_zero_upstream(dout, x):
    return 2 * dout * x if dout.any() else None


@wrong(square, X, kind=Kind.BROADCAST, mistake=("size-one", "shape"))
def squeezes(dout, x):
    return 2 * dout.squeeze() * x.squeeze()


@wrong(square, X32, kind=Kind.PRECISION, mistake="dtype")
def cast_to_float32(dout, x):
    return (2 * dout * x).float()


@wrong(square, X32.double(), kind=Kind.PRECISION, mistake=("dtype", "cancellation"))
def computed_in_float32_and_cast_back(dout, x):
    return (2 * dout.float() * x.float()).to(x.dtype)


@wrong(square, X32, kind=Kind.PRECISION, mistake="dtype")
def into_zeros_of_the_default_dtype(dout, x):
    return torch.zeros(x.shape).add_(2 * dout * x)


@wrong(square, X, kind=Kind.LAYOUT, mistake="upstream-layout")
def upstream_read_as_if_it_were_dense(dout, x):
    return 2 * x * dout.as_strided(dout.shape, dense_strides(dout.shape))


@wrong(square, X, kind=Kind.LAYOUT, mistake="upstream-layout")
def upstream_read_from_its_storages_start(dout, x):
    """As a kernel does that is given the wrong pointer."""
    memory = torch.empty(0, dtype=dout.dtype).set_(dout.untyped_storage())
    return 2 * x * memory[: x.numel()].reshape(x.shape)


@wrong(square, X, kind=Kind.LAYOUT, mistake="upstream-layout")
def upstream_viewed(dout, x):
    return (2 * dout.view(-1) * x.reshape(-1)).view(x.shape)


@wrong(square, X, kind=Kind.LAYOUT, mistake=("upstream-layout", "upstream-collapsed"))
def an_expanded_upstream_is_one_number(dout, x):
    """Wherever a stride is zero."""
    if 0 in dout.stride() and dout.numel():
        dout = dout.reshape(-1)[0]
    return 2 * x * dout


@wrong(square, X, kind=Kind.LAYOUT, mistake="upstream-layout")
def what_is_not_dense_is_transposed(dout, x):
    g = dout.contiguous()
    if not dout.is_contiguous() and dout.dim() == 2:
        g = dout.as_strided(dout.shape, (1, dout.shape[0]))
    return 2 * x * g


@wrong(square, X, kind=Kind.OTHER, mistake=("upstream-layout", "transposed"))
def written_densely_into_the_layout_of_x(dout, x):
    """``empty_like`` keeps the layout of x, and the loop writes by addresses."""
    dx = torch.empty_like(x)
    dx.as_strided((x.numel(),), (1,)).copy_((2 * dout * x).reshape(-1))
    return dx


@wrong(square, X, kind=Kind.OTHER, mistake=("upstream-layout", "transposed"))
def x_read_as_if_it_were_dense(dout, x):
    return 2 * dout * x.as_strided(x.shape, dense_strides(x.shape))


@wrong(square, X, kind=Kind.SIZES, mistake=("ignored-rows", "hard-coded-size"))
def rows_beyond_128(dout, x):
    return square_of_rows(dout, x, 128)


@wrong(square, X, kind=Kind.SIZES, mistake=("ignored-rows", "hard-coded-size"))
def rows_beyond_1024(dout, x):
    return square_of_rows(dout, x, 1024)


@wrong(square, draw(32, 1), kind=Kind.SIZES, mistake=("ignored-rows", "hard-coded-size"))
def last_block_of_fewer_than_32_rows(dout, x):
    whole = len(x) // 32 * 32
    return torch.cat((2 * dout[:whole] * x[:whole], torch.zeros_like(x[whole:])))


@wrong(square, X, kind=Kind.OTHER, mistake=("upstream-collapsed", "factor", "overflow"))
def upstream_clamped_at_ten(dout, x):
    return 2 * x * dout.clamp(-10, 10)


@wrong(square, X, kind=Kind.OTHER, mistake=("upstream-collapsed", "factor", "overflow"))
def an_upstream_of_large_norm_scaled_down(dout, x):
    norm = dout.norm()
    return 2 * x * torch.where(norm > 100, dout * (100 / norm), dout)


@wrong(square, X, kind=Kind.OTHER, mistake=("zero-gradient", "eps"))
def a_small_upstream_flushed_to_zero(dout, x):
    return 2 * x * dout.masked_fill(dout.abs() < 1e-6, 0)


@wrong(square, X32, kind=Kind.OTHER, mistake="eps")
def upstream_plus_1e_12(dout, x):
    return 2 * x * (dout + 1e-12)


@wrong(square, X, kind=Kind.OTHER, mistake="sign")
def absolute_value_of_the_upstream(dout, x):
    return 2 * x * dout.abs()


@wrong(square, X, kind=Kind.OTHER, mistake=("zero-gradient", "sign"))
def nothing_unless_the_upstream_is_positive(dout, x):
    return 2 * dout * x if (dout > 0).any() else torch.zeros_like(x)


@wrong(square, X, kind=Kind.NAN_AT_ZERO, mistake="nan")
def direction_times_length_of_the_upstream(dout, x):
    """0 / 0 for a zero upstream."""
    norm = dout.norm()
    return (dout / norm) * (2 * x * norm)


def relu(x: Tensor) -> Tensor:
    return x.relu()


@wrong(relu, X, kind=Kind.OVERWRITTEN, mistake=("mutates-upstream", "aliased"))
def zeros_written_into_the_upstream(dout, x):
    dout[x <= 0] = 0
    return dout


@wrong(relu, X, kind=Kind.OVERWRITTEN, mistake="mutates-input")
def x_clamped_in_place(dout, x):
    return dout * x.clamp_(min=0).sign()


MASKS: dict[torch.Size, Tensor] = {}


@wrong(relu, X, kind=Kind.STALE, mistake="state")
def first_mask_of_a_shape(dout, x):
    return dout * MASKS.setdefault(x.shape, x > 0)


@wrong(
    relu,
    positive(3, 4),
    kind=Kind.STALE,
    mistake=("nondeterministic", "nan", "kink", "ignored-rows"),
)
def written_only_where_x_is_positive(dout, x):
    dx = torch.empty_like(x)
    positive_ = x > 0
    dx[positive_] = dout[positive_]
    return dx


@wrong(relu, X, kind=Kind.OTHER, mistake=("sign", "kink"))
def guided_without_a_negative_upstream(dout, x):
    return dout.clamp(min=0) * (x > 0)


def exp(x: Tensor) -> Tensor:
    return x.exp()


@wrong(exp, X, kind=Kind.OVERWRITTEN, mistake=("mutates-kept", "mutates-input", "aliased"))
def output_multiplied_in_place(dout, out):
    return out.mul_(dout)


SEEN: dict[tuple[int, torch.Size], Tensor] = {}


@wrong(exp, X, kind=Kind.STALE, mistake="state")
def what_was_at_this_address_before(dout, x):
    return dout * SEEN.setdefault((x.data_ptr(), x.shape), x.exp())


def scale(x: Tensor, *, factor: float = 2.0) -> Tensor:
    return factor * x


BUFFERS: dict[tuple[torch.Size, torch.dtype], Tensor] = {}


def scaled_in_a_buffer(dout: Tensor, factor: float) -> Tensor:
    """In one buffer a shape and dtype."""
    key = (dout.shape, dout.dtype)
    if key not in BUFFERS:
        BUFFERS[key] = torch.empty(dout.shape, dtype=dout.dtype)
    return BUFFERS[key].copy_(dout).mul_(factor)


@right(scale, X, factor=1.0)
def upstream_itself_for_a_factor_of_one(dout, *, factor):
    return dout if factor == 1 else dout * factor


@right(scale, X)
def one_buffer_for_all_calls_copied_on_return(dout, *, factor):
    return scaled_in_a_buffer(dout, factor).clone()


@wrong(scale, X, kind=Kind.STALE, mistake=("aliased", "state"))
def one_buffer_for_all_calls(dout, *, factor):
    return scaled_in_a_buffer(dout, factor)


FACTORS: list[float] = []


@wrong(scale, X, kind=Kind.STALE, mistake=("state", "option-ignored"))
def factor_of_the_first_call(dout, *, factor):
    if not FACTORS:
        FACTORS.append(factor)
    return dout * FACTORS[0]


@wrong(scale, X, kind=Kind.MISSING, mistake=("wrong-count", "none-gradient"))
def none_for_the_option(dout, *, factor):
    return factor * dout, None


def scale_by(x: Tensor, factor: Tensor | float) -> Tensor:
    return factor * x


@right(scale_by, X, 1.5)
def none_for_a_number(dout, factor):
    return dout * factor, None


@wrong(scale_by, X, FACTOR, kind=Kind.MISSING, mistake=("dtype", "shape", "none-gradient"))
def a_number_for_a_tensor_without_dimensions(dout, x, factor):
    return dout * factor, (dout * x).sum().item()


@wrong(scale_by, X, FACTOR, kind=Kind.BROADCAST, mistake="shape")
def one_dimension_for_a_tensor_without_any(dout, x, factor):
    return dout * factor, (dout * x).sum().reshape(1)


def scale_unannotated(x, factor):
    return factor * x


@right(scale_unannotated, X, 1.5)
def no_place_for_a_number(dout, factor):
    return dout * factor


def mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


@wrong(mul, *TWO, kind=Kind.OVERWRITTEN, mistake="mutates-upstream")
def first_gradient_in_the_upstream(dout, x, y):
    dy = dout * x
    dx = dout.mul_(y)
    return dx, dy


@wrong(mul, *TWO, kind=Kind.OVERWRITTEN, mistake="mutates-upstream")
def overwritten_before_it_is_read_again(dout, x, y):
    dx = dout.mul_(y)
    dy = dout * x
    return dx, dy


@wrong(mul, *TWO, kind=Kind.MISSING, mistake="wrong-count")
def a_list_for_a_tuple(dout, x, y):
    return [dout * y, dout * x]


@wrong(mul, *TWO, kind=Kind.MISSING, mistake=("wrong-count", "shape"))
def both_gradients_in_one_tensor(dout, x, y):
    return torch.stack((dout * y, dout * x))


def scaled_sum(x: Tensor, y: Tensor) -> Tensor:
    return 3 * (x + y)


@right(scaled_sum, *TWO)
def one_result_in_both_places(dout, x, y):
    g = 3 * dout
    return sum_to(g, x.shape), sum_to(g, y.shape)


def affine(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Gain and bias have a shape that broadcasts to that of x."""
    return x * gain + bias


class Gradients(NamedTuple):
    dx: Tensor
    dgain: Tensor
    dbias: Tensor


@right(affine, *draws((3, 4), (1, 4), (4,)))
def a_record_of_gradients(dout, x, gain, bias):
    return Gradients(dout * gain, sum_to(dout * x, gain.shape), sum_to(dout, bias.shape))


LAST: dict[tuple[torch.Size, torch.dtype], Tensor] = {}


@wrong(affine, *AFFINE, kind=Kind.STALE, mistake="state")
def bias_gradient_a_call_late(dout, x, gain, bias):
    """After a first call of this shape and dtype."""
    dbias = sum_to(dout, bias.shape)
    key = (dbias.shape, dbias.dtype)
    late = LAST.get(key, dbias)
    LAST[key] = dbias.clone()
    return dout * gain, sum_to(dout * x, gain.shape), late


@wrong(affine, *AFFINE, kind=Kind.MISSING, mistake=("wrong-count", "none-gradient"))
def nothing_for_the_bias(dout, x, gain):
    return dout * gain, sum_to(dout * x, gain.shape)


@wrong(affine, *AFFINE, kind=Kind.MISSING, mistake="none-gradient")
def none_for_the_bias(dout, x, gain):
    return dout * gain, sum_to(dout * x, gain.shape), None


@wrong(affine, *AFFINE, kind=Kind.MISSING, mistake="zero-gradient")
def zero_for_the_bias(dout, x, gain, bias):
    return dout * gain, sum_to(dout * x, gain.shape), torch.zeros_like(bias)


@wrong(affine, *AFFINE, kind=Kind.MISSING, mistake="swapped-inputs")
def bias_gradient_in_the_gains_place(dout, x, gain):
    return dout * gain, dout.sum(0), (dout * x).sum(0)


@wrong(affine, *draws((3, 4), (1, 4), (1, 4)), kind=Kind.BROADCAST, mistake="shape")
def one_dimension_for_a_bias_of_two(dout, x, gain):
    return dout * gain, sum_to(dout * x, gain.shape), dout.sum(0)


@wrong(affine, *AFFINE, kind=Kind.BROADCAST, mistake=("missing-reduction", "shape"))
def gain_gradient_not_summed(dout, x, gain, bias):
    return dout * gain, dout * x, sum_to(dout, bias.shape)


@wrong(affine, *AFFINE, kind=Kind.BROADCAST, mistake=("size-one", "shape"))
def squeezes_one_column_too(dout, x, gain):
    return (
        dout * gain,
        (dout * x).sum(0, keepdim=True).squeeze(),
        dout.sum(0, keepdim=True).squeeze(),
    )


@wrong(affine, *AFFINE, kind=Kind.PRECISION, mistake=("dtype", "cancellation"))
def sums_in_bfloat16(dout, x, gain, bias):
    return (
        dout * gain,
        sum_to((dout * x).bfloat16(), gain.shape).to(gain.dtype),
        sum_to(dout, bias.shape),
    )


@wrong(
    affine,
    *draws((5, 3), (3,), (3,)),
    kind=Kind.FAN_OUT,
    mistake=("ignored-rows", "missing-reduction", "hard-coded-size"),
)
def only_the_last_blocks_gain(dout, x, gain, bias):
    """Each block of 64 rows overwrites those before."""
    dgain, dbias = torch.zeros_like(gain), torch.zeros_like(bias)
    for start in range(0, len(x), 64):
        block = slice(start, start + 64)
        dgain = (dout[block] * x[block]).sum(0)
        dbias = dbias + dout[block].sum(0)
    return dout * gain, dgain, dbias


@wrong(affine, *AFFINE, kind=Kind.MISSING, mistake=("zero-gradient", "state"))
def gain_gradient_only_if_required(dout, x, gain, bias):
    dgain = sum_to(dout * x, gain.shape) if gain.requires_grad else torch.zeros_like(gain)
    return dout * gain, dgain, sum_to(dout, bias.shape)


@wrong(affine, *AFFINE, kind=Kind.MISSING, mistake=("zero-gradient", "state"))
def bias_gradient_only_in_grad_mode(dout, x, gain, bias):
    dbias = sum_to(dout, bias.shape)
    dgain = sum_to(dout * x, gain.shape)
    return dout * gain, dgain, dbias if torch.is_grad_enabled() else torch.zeros_like(dbias)


@wrong(affine, *AFFINE, kind=Kind.MISSING, mistake=("zero-gradient", "state"))
def gain_gradient_only_without_grad_mode(dout, x, gain, bias):
    """Skipped while a graph is recorded."""
    dgain = torch.zeros_like(gain) if torch.is_grad_enabled() else sum_to(dout * x, gain.shape)
    return dout * gain, dgain, sum_to(dout, bias.shape)


def dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum()


@wrong(dot, *draws((5,), (5,)), kind=Kind.OVERWRITTEN, mistake="aliased")
def other_input_itself_for_an_upstream_of_one(dout, x, y):
    """No product where the upstream is one."""
    if dout == 1:
        return y, x
    return dout * y, dout * x


def row_errors(x: Tensor, target: Tensor) -> Tensor:
    """The squared error of each row, not yet reduced."""
    return ((x - target) ** 2).sum(-1)


@wrong(row_errors, *draws((1, 4), (1, 4)), kind=Kind.UPSTREAM_LOST, mistake="upstream-collapsed")
def mean_of_the_upstream(dout, x, target):
    return 2 * (x - target) * dout.mean(), 2 * (target - x) * dout.mean()


@wrong(
    row_errors,
    *draws((1, 4), (1, 4)),
    kind=Kind.UPSTREAM_LOST,
    mistake=("upstream-collapsed", "ignored-rows"),
)
def first_entry_of_the_upstream(dout, x, target):
    return 2 * (x - target) * dout[0], 2 * (target - x) * dout[0]


@wrong(row_errors, *TWO, kind=Kind.UPSTREAM_LOST, mistake="upstream-collapsed")
def sum_of_the_upstream(dout, x, target):
    return 2 * (x - target) * dout.sum(), 2 * (target - x) * dout.sum()


@wrong(row_errors, *TWO, kind=Kind.UPSTREAM_LOST, mistake="upstream-ignored")
def computed_in_the_forward(dout, x, target):
    return 2 * (x - target), 2 * (target - x)


def centred_square(x: Tensor) -> Tensor:
    return (x - x.mean(0)) ** 2


@wrong(centred_square, X, kind=Kind.OVERWRITTEN, mistake="mutates-input")
def x_centred_in_place(dout, x):
    x -= x.mean(0)
    g = 2 * dout * x
    return g - g.mean(0)


def masked(x: Tensor, *, mask: Tensor) -> Tensor:
    return x.masked_fill(~mask, 0)


@wrong(masked, X, mask=ALL, kind=Kind.STALE, mistake=("nondeterministic", "nan", "ignored-rows"))
def written_only_where_the_mask_is_true(dout, *, mask):
    dx = torch.empty_like(dout)
    dx[mask] = dout[mask]
    return dx


def dropout(x: Tensor, *, mask: Tensor) -> Tensor:
    return 2 * x * mask


@wrong(dropout, X, mask=MASK, kind=Kind.OVERWRITTEN, mistake=("mutates-input", "state"))
def mask_inverted_in_place(dout, *, mask):
    return (2 * dout).masked_fill(mask.logical_not_(), 0)


@wrong(dropout, X, mask=MASK, kind=Kind.DROPOUT, mistake="nondeterministic")
def a_fresh_mask(dout):
    return 2 * dout * (torch.rand(dout.shape, device=dout.device) < 0.5)


def row_sums(x: Tensor) -> Tensor:
    return x.sum(-1)


@right(row_sums, X)
def every_column_a_view_of_the_upstream(dout, x):
    return dout.unsqueeze(-1).expand_as(x)


@wrong(row_sums, draw(4, 3), kind=Kind.SIZES, mistake=("hard-coded-size", "shape"))
def always_three_columns(dout):
    return dout.unsqueeze(-1).expand(*dout.shape, 3)


@wrong(row_sums, X, kind=Kind.SIZES, mistake=("hard-coded-size", "ignored-rows"))
def first_four_columns(dout, x):
    dx = torch.zeros_like(x)
    for column in range(4):
        if column < x.shape[-1]:
            dx[..., column] = dout
    return dx


def permute(x: Tensor, *, order: tuple[int, ...]) -> Tensor:
    return x.permute(order)


@right(permute, draw(2, 3, 4), order=(2, 0, 1))
def permuted_back(dout, *, order):
    return dout.permute(tensor([d % dout.dim() for d in order]).argsort().tolist())


def concatenate(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat((x, y), -1)


@right(concatenate, *draws((3, 4), (3, 2)))
def parts_of_the_upstream(dout, x, y):
    return dout.split((x.shape[-1], y.shape[-1]), -1)


def stack(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(parts))


@right(stack, [*draws((3, 4), (3, 4), (3, 4))])
def one_slot_of_a_tuple(dout):
    return (dout.unbind(0),)


def first(x: Tensor, y: Tensor) -> Tensor:
    """Twice x; y is not used."""
    return 2 * x


@right(first, *draws((3, 4), (4,)))
def zeros_for_the_input_that_is_not_used(dout, y):
    return 2 * dout, y.new_zeros(()).expand(y.shape)


@lru_cache(maxsize=64)
def zeros(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


@wrong(first, *draws((3, 4), (4,)), kind=Kind.STALE, mistake=("aliased", "state"))
def same_zeros_for_every_call(dout, y):
    return 2 * dout, zeros(y.shape, y.dtype)


def pick(x: Tensor, index) -> Tensor:
    return x.gather(-1, index)


@right(pick, X, tensor([[0, 0], [3, 1], [2, 2]]))
def no_place_for_the_index(dout, x, index):
    return torch.zeros_like(x).scatter_add(-1, index, dout)


def lower_triangle(x: Tensor) -> Tensor:
    return x.tril()


@lru_cache(maxsize=64)
def triangle(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(rows, columns, dtype=dtype).tril()


@right(lower_triangle, draw(4, 4))
def triangle_kept_between_calls(dout):
    return dout * triangle(*dout.shape[-2:], dout.dtype)


def convolve_around(x: Tensor, y: Tensor) -> Tensor:
    """The circular convolution of two rows."""
    n = x.shape[-1]
    if y.shape[-1] != n:
        raise ValueError(f"rows of {n} and {y.shape[-1]} entries have no circular convolution")
    return torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(y), n)


@right(convolve_around, *draws((3, 8), (3, 8)))
def in_the_frequencies(dout, x, y):
    n = dout.shape[-1]
    f = torch.fft.rfft(dout)
    dx = torch.fft.irfft(f * torch.fft.rfft(y).conj(), n)
    dy = torch.fft.irfft(f * torch.fft.rfft(x).conj(), n)
    return sum_to(dx, x.shape), sum_to(dy, y.shape)


class Exponential(NamedTuple):
    out: Tensor
    slope: Kept


def softplus(x: Tensor) -> Exponential:
    return Exponential(torch.logaddexp(x, torch.zeros_like(x)), x.sigmoid())


@wrong(softplus, X, kind=Kind.OVERWRITTEN, mistake="mutates-kept")
def kept_slope_multiplied_in_place(dout, slope):
    return slope.mul_(dout).clone()


class Largest(NamedTuple):
    out: Tensor
    index: Kept


def largest(x: Tensor) -> Largest:
    return Largest(*x.max(-1))


@right(largest, X)
def by_comparing_with_the_index(dout, x, index):
    return dout.unsqueeze(-1) * (torch.arange(x.shape[-1], device=x.device) == index.unsqueeze(-1))


class Polar(NamedTuple):
    size: Tensor
    sign: Tensor


def polar(x: Tensor) -> Polar:
    """The size of x, and its sign, which does not depend on it between two kinks."""
    return Polar(x.abs(), x.sign())


@right(polar, X)
def sign_passes_nothing_on(dsize, dsign, sign):
    return dsize * sign
