"""What a backward owes besides the formula: purity, fresh results, shapes, dtypes, every layout.

The formulas are plain here. Most entries give the right values on their sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, tensor

from backprop_ops import Kept, sum_to
from tests.corpus import Right, Wrong


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def positive(*shape: int, seed: int = 0) -> Tensor:
    return draw(*shape, seed=seed).abs() + 0.5


# The forwards.


def square(x: Tensor) -> Tensor:
    return x * x


def relu(x: Tensor) -> Tensor:
    return x.relu()


def exp(x: Tensor) -> Tensor:
    return x.exp()


def scale(x: Tensor, *, factor: float = 2.0) -> Tensor:
    return factor * x


def scale_by(x: Tensor, factor: Tensor | float) -> Tensor:
    return factor * x


def scale_unannotated(x, factor):
    return factor * x


def mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


def scaled_sum(x: Tensor, y: Tensor) -> Tensor:
    return 3 * (x + y)


def affine(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Gain and bias have a shape that broadcasts to that of x."""
    return x * gain + bias


def dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum()


def row_errors(x: Tensor, target: Tensor) -> Tensor:
    """The squared error of each row, not yet reduced."""
    return ((x - target) ** 2).sum(-1)


def centred_square(x: Tensor) -> Tensor:
    return (x - x.mean(0)) ** 2


def masked(x: Tensor, *, mask: Tensor) -> Tensor:
    return x.masked_fill(~mask, 0)


def dropout(x: Tensor, *, mask: Tensor) -> Tensor:
    return 2 * x * mask


def row_sums(x: Tensor) -> Tensor:
    return x.sum(-1)


def permute(x: Tensor, *, order: tuple[int, ...]) -> Tensor:
    return x.permute(order)


def concatenate(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat((x, y), -1)


def stack(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(parts))


def first(x: Tensor, y: Tensor) -> Tensor:
    """Twice x; y is not used."""
    return 2 * x


def pick(x: Tensor, index) -> Tensor:
    return x.gather(-1, index)


def lower_triangle(x: Tensor) -> Tensor:
    return x.tril()


def convolve_around(x: Tensor, y: Tensor) -> Tensor:
    """The circular convolution of two rows."""
    n = x.shape[-1]
    if y.shape[-1] != n:
        raise ValueError(f"rows of {n} and {y.shape[-1]} entries have no circular convolution")
    return torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(y), n)


class Exponential(NamedTuple):
    out: Tensor
    slope: Kept


def softplus(x: Tensor) -> Exponential:
    return Exponential(torch.logaddexp(x, torch.zeros_like(x)), x.sigmoid())


class Largest(NamedTuple):
    out: Tensor
    index: Kept


def largest(x: Tensor) -> Largest:
    return Largest(*x.max(-1))


class Polar(NamedTuple):
    size: Tensor
    sign: Tensor


def polar(x: Tensor) -> Polar:
    """The size of x, and its sign, which does not depend on it between two kinks."""
    return Polar(x.abs(), x.sign())


class Gradients(NamedTuple):
    dx: Tensor
    dgain: Tensor
    dbias: Tensor


def affine_gradients(dout: Tensor, x: Tensor, gain: Tensor, bias: Tensor) -> Gradients:
    return Gradients(dout * gain, sum_to(dout * x, gain.shape), sum_to(dout, bias.shape))


# Purity. What is written to is what its name says.


def square_in_place(dout: Tensor, x: Tensor) -> Tensor:
    return dout.mul_(2 * x)


def square_contiguous(dout: Tensor, x: Tensor) -> Tensor:
    """``contiguous`` copies only what is not contiguous."""
    return dout.contiguous().mul_(x).mul_(2)


def square_flattened(dout: Tensor, x: Tensor) -> Tensor:
    flat = dout.reshape(-1)
    flat *= 2 * x.reshape(-1)
    return flat.reshape(x.shape).clone()


def square_detached(dout: Tensor, x: Tensor) -> Tensor:
    g = dout.detach()
    g *= x
    return 2 * g


def square_put_back(dout: Tensor, x: Tensor) -> Tensor:
    """Divided again by what it was multiplied by: up to rounding, and where x is not zero."""
    dx = dout.mul_(x) * 2
    dout.div_(x)
    return dx


def relu_filled(dout: Tensor, x: Tensor) -> Tensor:
    dout[x <= 0] = 0
    return dout


def mul_through_the_upstream(dout: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    dy = dout * x
    dx = dout.mul_(y)
    return dx, dy


def mul_before_it_is_read(dout: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    dx = dout.mul_(y)
    dy = dout * x
    return dx, dy


def centred_in_place(dout: Tensor, x: Tensor) -> Tensor:
    x -= x.mean(0)
    g = 2 * dout * x
    return g - g.mean(0)


def relu_clamped_input(dout: Tensor, x: Tensor) -> Tensor:
    return dout * x.clamp_(min=0).sign()


def dropout_mask_flipped(dout: Tensor, *, mask: Tensor) -> Tensor:
    return (2 * dout).masked_fill(mask.logical_not_(), 0)


# Results that are not the caller's own.


def dot_handing_out(dout: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """No product where the upstream is one."""
    if dout == 1:
        return y, x
    return dout * y, dout * x


def scale_into(buffers: dict[tuple[torch.Size, torch.dtype], Tensor], copied: bool):
    """A backward that computes in one buffer a shape and dtype."""

    def scale_backward(dout: Tensor, *, factor: float) -> Tensor:
        key = (dout.shape, dout.dtype)
        if key not in buffers:
            buffers[key] = torch.empty(dout.shape, dtype=dout.dtype)
        buffers[key].copy_(dout)
        buffers[key].mul_(factor)
        return buffers[key].clone() if copied else buffers[key]

    return scale_backward


@lru_cache(maxsize=64)
def zeros(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


@lru_cache(maxsize=64)
def triangle(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(rows, columns, dtype=dtype).tril()


def scaled_sum_backward(dout: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    g = 3 * dout
    return sum_to(g, x.shape), sum_to(g, y.shape)


def permuted_back(dout: Tensor, *, order: tuple[int, ...]) -> Tensor:
    return dout.permute(tensor([d % dout.dim() for d in order]).argsort().tolist())


# State and chance.


def relu_mask_by_shape(masks: dict[torch.Size, Tensor]):
    def relu_backward(dout: Tensor, x: Tensor) -> Tensor:
        return dout * masks.setdefault(x.shape, x > 0)

    return relu_backward


def exp_by_address(seen: dict[tuple[int, torch.Size], Tensor]):
    """The result for memory that was seen before, whatever stands in it by now."""

    def exp_backward(dout: Tensor, x: Tensor) -> Tensor:
        return dout * seen.setdefault((x.data_ptr(), x.shape), x.exp())

    return exp_backward


def scale_first_factor(seen: list[float]):
    def scale_backward(dout: Tensor, *, factor: float) -> Tensor:
        if not seen:
            seen.append(factor)
        return dout * seen[0]

    return scale_backward


def square_accumulated(sums: dict[tuple[torch.Size, torch.dtype], Tensor]):
    """Added to what the last call left, as ``.grad`` is."""

    def square_backward(dout: Tensor, x: Tensor) -> Tensor:
        key = (x.shape, x.dtype)
        sums[key] = sums.get(key, 0) + 2 * dout * x
        return sums[key].clone()

    return square_backward


def affine_last_bias(last: dict[tuple[torch.Size, torch.dtype], Tensor]):
    """The bias's gradient from the call before, where there was one of this shape and dtype."""

    def affine_backward(dout, x, gain, bias):
        dbias = sum_to(dout, bias.shape)
        key = (dbias.shape, dbias.dtype)
        late = last.get(key, dbias)
        last[key] = dbias.clone()
        return dout * gain, sum_to(dout * x, gain.shape), late

    return affine_backward


def half_of_the_entries(dout: Tensor, x: Tensor) -> Tensor:
    """An estimate that is right on average."""
    return 4 * dout * x * (torch.rand(x.shape, device=x.device) < 0.5)


# Memory that nobody wrote to.


def relu_written_where_positive(dout: Tensor, x: Tensor) -> Tensor:
    dx = torch.empty_like(x)
    positive_ = x > 0
    dx[positive_] = dout[positive_]
    return dx


def masked_written_where_true(dout: Tensor, *, mask: Tensor) -> Tensor:
    dx = torch.empty_like(dout)
    dx[mask] = dout[mask]
    return dx


def square_by_fours_into_empty(dout: Tensor, x: Tensor) -> Tensor:
    """Whole blocks of four rows; what is left over is never written."""
    dx = torch.empty_like(x)
    for start in range(0, len(x) - 3, 4):
        dx[start : start + 4] = 2 * dout[start : start + 4] * x[start : start + 4]
    return dx


# Sizes.


def square_to_the_block(rows: int):
    """One block of so many rows; those beyond keep a zero."""

    def square_backward(dout: Tensor, x: Tensor) -> Tensor:
        dx = torch.zeros_like(x)
        dx[:rows] = 2 * dout[:rows] * x[:rows]
        return dx

    return square_backward


def square_in_whole_blocks(rows: int):
    """Blocks of so many rows; a last one that is shorter is left out."""

    def square_backward(dout: Tensor, x: Tensor) -> Tensor:
        whole = len(x) // rows * rows
        return torch.cat((2 * dout[:whole] * x[:whole], torch.zeros_like(x[whole:])))

    return square_backward


def square_in_blocks_with_tail(dout: Tensor, x: Tensor) -> Tensor:
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    for start in range(0, len(x), 4):
        block = slice(start, start + 4)
        torch.mul(dout[block], 2 * x[block], out=dx[block])
    return dx


def affine_in_blocks(dout, x, gain, bias):
    """In blocks of 64 rows: for the gain the last one overwrites those before."""
    dgain, dbias = torch.zeros_like(gain), torch.zeros_like(bias)
    for start in range(0, len(x), 64):
        block = slice(start, start + 64)
        dgain = (dout[block] * x[block]).sum(0)
        dbias = dbias + dout[block].sum(0)
    return dout * gain, dgain, dbias


def row_sums_of_four(dout: Tensor, x: Tensor) -> Tensor:
    dx = torch.zeros_like(x)
    for column in range(4):
        if column < x.shape[-1]:
            dx[..., column] = dout
    return dx


# The upstream's layout, and that of the inputs.


def dense_strides(shape: torch.Size) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


def square_read_as_dense(dout: Tensor, x: Tensor) -> Tensor:
    return 2 * x * dout.as_strided(dout.shape, dense_strides(dout.shape))


def square_read_from_storage(dout: Tensor, x: Tensor) -> Tensor:
    """From the start of its storage, as a kernel that is given the wrong pointer."""
    memory = torch.empty(0, dtype=dout.dtype).set_(dout.untyped_storage())
    return 2 * x * memory[: x.numel()].reshape(x.shape)


def square_viewed(dout: Tensor, x: Tensor) -> Tensor:
    return (2 * dout.view(-1) * x.reshape(-1)).view(x.shape)


def square_expanded_is_one_number(dout: Tensor, x: Tensor) -> Tensor:
    """A stride of zero taken to mean that all of the upstream is one number."""
    if 0 in dout.stride() and dout.numel():
        dout = dout.reshape(-1)[0]
    return 2 * x * dout


def square_transposed_or_dense(dout: Tensor, x: Tensor) -> Tensor:
    """What is not contiguous is taken to be transposed."""
    g = dout.contiguous()
    if not dout.is_contiguous() and dout.dim() == 2:
        g = dout.as_strided(dout.shape, (1, dout.shape[0]))
    return 2 * x * g


def square_written_as_dense(dout: Tensor, x: Tensor) -> Tensor:
    """``empty_like`` keeps the layout of x, and the loop writes by addresses."""
    dx = torch.empty_like(x)
    dx.as_strided((x.numel(),), (1,)).copy_((2 * dout * x).reshape(-1))
    return dx


def square_input_read_as_dense(dout: Tensor, x: Tensor) -> Tensor:
    return 2 * dout * x.as_strided(x.shape, dense_strides(x.shape))


# Not linear in the upstream.


def square_gradient_clipped(dout: Tensor, x: Tensor) -> Tensor:
    norm = dout.norm()
    return 2 * x * torch.where(norm > 100, dout * (100 / norm), dout)


def square_by_direction(dout: Tensor, x: Tensor) -> Tensor:
    """The upstream's direction times its length: 0 / 0 for a zero upstream."""
    norm = dout.norm()
    return (dout / norm) * (2 * x * norm)


def square_scaled_for_safety(dout: Tensor, x: Tensor) -> Tensor:
    """Divided by its largest entry and multiplied again, unless that is zero."""
    size = dout.abs().amax() if dout.numel() else dout.new_ones(())
    size = torch.where(size == 0, 1, size)
    return (dout / size) * x * 2 * size


def square_none_for_zero(dout: Tensor, x: Tensor) -> Tensor | None:
    return 2 * dout * x if dout.any() else None


def square_early_exit(dout: Tensor, x: Tensor) -> Tensor:
    """Nothing to do where no entry is above zero, as is thought."""
    return 2 * dout * x if (dout > 0).any() else torch.zeros_like(x)


def square_early_exit_for_zero(dout: Tensor, x: Tensor) -> Tensor:
    return 2 * dout * x if dout.any() else torch.zeros_like(x)


# Autograd itself.


def square_by_autograd(dout: Tensor, x: Tensor) -> Tensor:
    with torch.enable_grad():
        copy = x.detach().requires_grad_()
        (dx,) = torch.autograd.grad(square(copy), copy, dout)
    return dx


def affine_where_required(dout, x, gain, bias):
    dgain = sum_to(dout * x, gain.shape) if gain.requires_grad else torch.zeros_like(gain)
    return dout * gain, dgain, sum_to(dout, bias.shape)


def affine_in_grad_mode(dout, x, gain, bias):
    dbias = sum_to(dout, bias.shape)
    dgain = sum_to(dout * x, gain.shape)
    return dout * gain, dgain, dbias if torch.is_grad_enabled() else torch.zeros_like(dbias)


def affine_without_grad_mode(dout, x, gain, bias):
    """The other way round: the gain's gradient is skipped while a graph is recorded."""
    dgain = torch.zeros_like(gain) if torch.is_grad_enabled() else sum_to(dout * x, gain.shape)
    return dout * gain, dgain, sum_to(dout, bias.shape)


def convolve_around_backward(dout: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    n = dout.shape[-1]
    f = torch.fft.rfft(dout)
    dx = torch.fft.irfft(f * torch.fft.rfft(y).conj(), n)
    dy = torch.fft.irfft(f * torch.fft.rfft(x).conj(), n)
    return sum_to(dx, x.shape), sum_to(dy, y.shape)


def columns(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return tuple(draw(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes))


WRONG: dict[str, Wrong] = {
    "square: in place on the upstream": Wrong(
        square, square_in_place, (draw(3, 4),), {}, 4, ("mutates-upstream", "aliased")
    ),
    "square: contiguous taken for a copy": Wrong(
        square, square_contiguous, (draw(3, 4),), {}, 4, ("mutates-upstream", "aliased")
    ),
    "square: in place on the flattened upstream": Wrong(
        square, square_flattened, (draw(3, 4),), {}, 4, "mutates-upstream"
    ),
    "square: in place on the detached upstream": Wrong(
        square, square_detached, (draw(3, 4),), {}, 4, "mutates-upstream"
    ),
    "square: the upstream changed and put back": Wrong(
        square, square_put_back, (draw(3, 4),), {}, 4, "mutates-upstream"
    ),
    "relu: zeros written into the upstream": Wrong(
        relu, relu_filled, (draw(3, 4),), {}, 4, ("mutates-upstream", "aliased")
    ),
    "mul: the second gradient computed, then the first in the upstream": Wrong(
        mul, mul_through_the_upstream, columns((3, 4), (3, 4)), {}, 4, "mutates-upstream"
    ),
    "mul: the upstream overwritten before it is read again": Wrong(
        mul, mul_before_it_is_read, columns((3, 4), (3, 4)), {}, 4, "mutates-upstream"
    ),
    "centred square: x centred in place": Wrong(
        centred_square, centred_in_place, (draw(3, 4),), {}, 4, "mutates-input"
    ),
    "relu: x clamped in place": Wrong(
        relu, relu_clamped_input, (draw(3, 4),), {}, 4, "mutates-input"
    ),
    "exp: the output multiplied in place": Wrong(
        exp,
        lambda dout, out: out.mul_(dout),
        (draw(3, 4),),
        {},
        4,
        ("mutates-kept", "mutates-input", "aliased"),
    ),
    "softplus: the kept slope multiplied in place": Wrong(
        softplus,
        lambda dout, slope: slope.mul_(dout).clone(),
        (draw(3, 4),),
        {},
        4,
        "mutates-kept",
    ),
    "dropout: the mask inverted in place": Wrong(
        dropout,
        dropout_mask_flipped,
        (draw(3, 4),),
        {"mask": draw(3, 4, seed=1) > 0},
        4,
        ("mutates-input", "state"),
    ),
    "dot: the other input itself for an upstream of one": Wrong(
        dot, dot_handing_out, columns((5,), (5,)), {}, 4, "aliased"
    ),
    "scale: one buffer for all calls": Wrong(
        scale, scale_into({}, copied=False), (draw(3, 4),), {}, 24, ("aliased", "state")
    ),
    "first of two: the same zeros for every call": Wrong(
        first,
        lambda dout, y: (2 * dout, zeros(y.shape, y.dtype)),
        columns((3, 4), (4,)),
        {},
        24,
        ("aliased", "state"),
    ),
    "relu: the first mask of a shape": Wrong(
        relu, relu_mask_by_shape({}), (draw(3, 4),), {}, 24, "state"
    ),
    "exp: what was at this address before": Wrong(
        exp, exp_by_address({}), (draw(3, 4),), {}, 24, "state"
    ),
    "scale: the first call's factor": Wrong(
        scale, scale_first_factor([]), (draw(3, 4),), {}, 24, ("state", "option-ignored")
    ),
    "square: added to the last call's": Wrong(
        square, square_accumulated({}), (draw(3, 4),), {}, 25, "state"
    ),
    "affine: the bias's gradient a call late": Wrong(
        affine, affine_last_bias({}), columns((3, 4), (4,), (4,)), {}, 24, "state"
    ),
    "dropout: a fresh mask": Wrong(
        dropout,
        lambda dout: 2 * dout * (torch.rand(dout.shape, device=dout.device) < 0.5),
        (draw(3, 4),),
        {"mask": draw(3, 4, seed=1) > 0},
        18,
        "nondeterministic",
    ),
    "square: half of the entries by chance, doubled": Wrong(
        square, half_of_the_entries, (draw(3, 4),), {}, 0, "nondeterministic"
    ),
    "square: a dither of 1e-8": Wrong(
        square,
        lambda dout, x: 2 * dout * x * (1 + 1e-8 * torch.randn_like(x)),
        (draw(3, 4, dtype=torch.float32),),
        {},
        0,
        "nondeterministic",
    ),
    "relu: written where x is positive alone": Wrong(
        relu,
        relu_written_where_positive,
        (positive(3, 4),),
        {},
        24,
        ("nondeterministic", "nan", "kink", "ignored-rows"),
    ),
    "masked: written where the mask is true alone": Wrong(
        masked,
        masked_written_where_true,
        (draw(3, 4),),
        {"mask": torch.ones(3, 4, dtype=torch.bool)},
        24,
        ("nondeterministic", "nan", "ignored-rows"),
    ),
    "square: whole blocks of four rows, into memory not written to": Wrong(
        square,
        square_by_fours_into_empty,
        (draw(8, 2),),
        {},
        24,
        ("ignored-rows", "nondeterministic", "nan"),
    ),
    "scale: a None for the option, as autograd.Function wants it": Wrong(
        scale,
        lambda dout, *, factor: (factor * dout, None),
        (draw(3, 4),),
        {},
        19,
        ("wrong-count", "none-gradient"),
    ),
    "affine: nothing for the bias": Wrong(
        affine,
        lambda dout, x, gain: (dout * gain, sum_to(dout * x, gain.shape)),
        columns((3, 4), (4,), (4,)),
        {},
        19,
        ("wrong-count", "none-gradient"),
    ),
    "mul: a list for a tuple": Wrong(
        mul,
        lambda dout, x, y: [dout * y, dout * x],
        columns((3, 4), (3, 4)),
        {},
        19,
        "wrong-count",
    ),
    "mul: both gradients in one tensor": Wrong(
        mul,
        lambda dout, x, y: torch.stack((dout * y, dout * x)),
        columns((3, 4), (3, 4)),
        {},
        19,
        ("wrong-count", "shape"),
    ),
    "affine: None for the bias": Wrong(
        affine,
        lambda dout, x, gain: (dout * gain, sum_to(dout * x, gain.shape), None),
        columns((3, 4), (4,), (4,)),
        {},
        19,
        "none-gradient",
    ),
    "affine: zero for the bias": Wrong(
        affine,
        lambda dout, x, gain, bias: (
            dout * gain,
            sum_to(dout * x, gain.shape),
            torch.zeros_like(bias),
        ),
        columns((3, 4), (4,), (4,)),
        {},
        19,
        "zero-gradient",
    ),
    "affine: the bias's gradient in the gain's place": Wrong(
        affine,
        lambda dout, x, gain: (dout * gain, dout.sum(0), (dout * x).sum(0)),
        columns((3, 4), (4,), (4,)),
        {},
        19,
        "swapped-inputs",
    ),
    "square: None for a zero upstream": Wrong(
        square, square_none_for_zero, (draw(3, 4),), {}, 19, "none-gradient"
    ),
    "scale by: a number for a tensor without dimensions": Wrong(
        scale_by,
        lambda dout, x, factor: (dout * factor, (dout * x).sum().item()),
        (draw(3, 4), tensor(1.5, dtype=torch.float64)),
        {},
        19,
        ("dtype", "shape", "none-gradient"),
    ),
    "scale by: one dimension for a tensor without": Wrong(
        scale_by,
        lambda dout, x, factor: (dout * factor, (dout * x).sum().reshape(1)),
        (draw(3, 4), tensor(1.5, dtype=torch.float64)),
        {},
        5,
        "shape",
    ),
    "affine: (c,) for a bias of (1, c)": Wrong(
        affine,
        lambda dout, x, gain: (dout * gain, sum_to(dout * x, gain.shape), dout.sum(0)),
        columns((3, 4), (1, 4), (1, 4)),
        {},
        5,
        "shape",
    ),
    "affine: the gain's gradient not summed": Wrong(
        affine,
        lambda dout, x, gain, bias: (dout * gain, dout * x, sum_to(dout, bias.shape)),
        columns((3, 4), (4,), (4,)),
        {},
        5,
        ("missing-reduction", "shape"),
    ),
    "affine: squeezed, of one column too": Wrong(
        affine,
        lambda dout, x, gain: (
            dout * gain,
            (dout * x).sum(0, keepdim=True).squeeze(),
            dout.sum(0, keepdim=True).squeeze(),
        ),
        columns((3, 4), (4,), (4,)),
        {},
        5,
        ("size-one", "shape"),
    ),
    "square: squeezed": Wrong(
        square,
        lambda dout, x: 2 * dout.squeeze() * x.squeeze(),
        (draw(3, 4),),
        {},
        5,
        ("size-one", "shape"),
    ),
    "square: cast to float32": Wrong(
        square,
        lambda dout, x: (2 * dout * x).float(),
        (draw(3, 4, dtype=torch.float32),),
        {},
        15,
        "dtype",
    ),
    "square: computed in float32, and cast back": Wrong(
        square,
        lambda dout, x: (2 * dout.float() * x.float()).to(x.dtype),
        (draw(3, 4, dtype=torch.float32),),
        {},
        15,
        ("dtype", "cancellation"),
    ),
    "square: into zeros of the default dtype": Wrong(
        square,
        lambda dout, x: torch.zeros(x.shape).add_(2 * dout * x),
        (draw(3, 4, dtype=torch.float32),),
        {},
        15,
        "dtype",
    ),
    "affine: the sums in bfloat16": Wrong(
        affine,
        lambda dout, x, gain, bias: (
            dout * gain,
            sum_to((dout * x).bfloat16(), gain.shape).to(gain.dtype),
            sum_to(dout, bias.shape),
        ),
        columns((3, 4), (4,), (4,)),
        {},
        15,
        ("dtype", "cancellation"),
    ),
    "square: the upstream read as if it were dense": Wrong(
        square, square_read_as_dense, (draw(3, 4),), {}, 3, "upstream-layout"
    ),
    "square: the upstream read from the start of its storage": Wrong(
        square, square_read_from_storage, (draw(3, 4),), {}, 3, "upstream-layout"
    ),
    "square: a view of the upstream": Wrong(
        square, square_viewed, (draw(3, 4),), {}, 3, "upstream-layout"
    ),
    "square: an expanded upstream is one number": Wrong(
        square,
        square_expanded_is_one_number,
        (draw(3, 4),),
        {},
        3,
        ("upstream-layout", "upstream-collapsed"),
    ),
    "square: an upstream that is not dense is transposed": Wrong(
        square, square_transposed_or_dense, (draw(3, 4),), {}, 3, "upstream-layout"
    ),
    "square: written densely into the layout of x": Wrong(
        square, square_written_as_dense, (draw(3, 4),), {}, 0, ("upstream-layout", "transposed")
    ),
    "square: x read as if it were dense": Wrong(
        square, square_input_read_as_dense, (draw(3, 4),), {}, 0, ("upstream-layout", "transposed")
    ),
    "row sums: three columns": Wrong(
        row_sums,
        lambda dout: dout.unsqueeze(-1).expand(*dout.shape, 3),
        (draw(4, 3),),
        {},
        17,
        ("hard-coded-size", "shape"),
    ),
    "row sums: the first four columns": Wrong(
        row_sums, row_sums_of_four, (draw(3, 4),), {}, 17, ("hard-coded-size", "ignored-rows")
    ),
    "square: the rows beyond 128": Wrong(
        square,
        square_to_the_block(128),
        (draw(3, 4),),
        {},
        17,
        ("ignored-rows", "hard-coded-size"),
    ),
    "square: the rows beyond 1024": Wrong(
        square,
        square_to_the_block(1024),
        (draw(3, 4),),
        {},
        17,
        ("ignored-rows", "hard-coded-size"),
    ),
    "square: a last block of fewer than 32 rows": Wrong(
        square,
        square_in_whole_blocks(32),
        (draw(32, 1),),
        {},
        17,
        ("ignored-rows", "hard-coded-size"),
    ),
    "affine: the last block's gain alone": Wrong(
        affine,
        affine_in_blocks,
        columns((5, 3), (3,), (3,)),
        {},
        25,
        ("ignored-rows", "missing-reduction", "hard-coded-size"),
    ),
    "row errors: the mean of the upstream": Wrong(
        row_errors,
        lambda dout, x, target: (
            2 * (x - target) * dout.mean(),
            2 * (target - x) * dout.mean(),
        ),
        columns((1, 4), (1, 4)),
        {},
        2,
        "upstream-collapsed",
    ),
    "row errors: the upstream's first entry": Wrong(
        row_errors,
        lambda dout, x, target: (2 * (x - target) * dout[0], 2 * (target - x) * dout[0]),
        columns((1, 4), (1, 4)),
        {},
        2,
        ("upstream-collapsed", "ignored-rows"),
    ),
    "row errors: the sum of the upstream": Wrong(
        row_errors,
        lambda dout, x, target: (2 * (x - target) * dout.sum(), 2 * (target - x) * dout.sum()),
        columns((3, 4), (3, 4)),
        {},
        2,
        "upstream-collapsed",
    ),
    "row errors: computed in the forward": Wrong(
        row_errors,
        lambda dout, x, target: (2 * (x - target), 2 * (target - x)),
        columns((3, 4), (3, 4)),
        {},
        2,
        "upstream-ignored",
    ),
    "square: the upstream clamped at ten": Wrong(
        square,
        lambda dout, x: 2 * x * dout.clamp(-10, 10),
        (draw(3, 4),),
        {},
        0,
        ("upstream-collapsed", "factor", "overflow"),
    ),
    "square: an upstream of large norm scaled down": Wrong(
        square,
        square_gradient_clipped,
        (draw(3, 4),),
        {},
        0,
        ("upstream-collapsed", "factor", "overflow"),
    ),
    "square: a small upstream flushed to zero": Wrong(
        square,
        lambda dout, x: 2 * x * dout.masked_fill(dout.abs() < 1e-6, 0),
        (draw(3, 4),),
        {},
        0,
        ("zero-gradient", "eps"),
    ),
    "square: 1e-12 added to the upstream": Wrong(
        square,
        lambda dout, x: 2 * x * (dout + 1e-12),
        (draw(3, 4, dtype=torch.float32),),
        {},
        0,
        "eps",
    ),
    "square: the size of the upstream": Wrong(
        square, lambda dout, x: 2 * x * dout.abs(), (draw(3, 4),), {}, 0, "sign"
    ),
    "relu: guided, a negative upstream left out": Wrong(
        relu, lambda dout, x: dout.clamp(min=0) * (x > 0), (draw(3, 4),), {}, 0, ("sign", "kink")
    ),
    "square: nothing for an upstream that is nowhere positive": Wrong(
        square, square_early_exit, (draw(3, 4),), {}, 0, ("zero-gradient", "sign")
    ),
    "square: the upstream's direction and length": Wrong(
        square, square_by_direction, (draw(3, 4),), {}, 8, "nan"
    ),
    "affine: the gain's gradient where it is required": Wrong(
        affine,
        affine_where_required,
        columns((3, 4), (4,), (4,)),
        {},
        19,
        ("zero-gradient", "state"),
    ),
    "affine: the bias's gradient in grad mode": Wrong(
        affine,
        affine_in_grad_mode,
        columns((3, 4), (4,), (4,)),
        {},
        19,
        ("zero-gradient", "state"),
    ),
    "affine: the gain's gradient without grad mode": Wrong(
        affine,
        affine_without_grad_mode,
        columns((3, 4), (4,), (4,)),
        {},
        19,
        ("zero-gradient", "state"),
    ),
}


RIGHT: dict[str, Right] = {
    "scale: the upstream itself for a factor of one": Right(
        scale,
        lambda dout, *, factor: dout if factor == 1 else dout * factor,
        (draw(3, 4),),
        {"factor": 1.0},
    ),
    "scale: one buffer for all calls, copied on return": Right(
        scale, scale_into({}, copied=True), (draw(3, 4),), {}
    ),
    "scale by: None for a number": Right(
        scale_by, lambda dout, factor: (dout * factor, None), (draw(3, 4), 1.5), {}
    ),
    "scale without annotations: no place for a number": Right(
        scale_unannotated, lambda dout, factor: dout * factor, (draw(3, 4), 1.5), {}
    ),
    "row sums: every column a view of the upstream": Right(
        row_sums, lambda dout, x: dout.unsqueeze(-1).expand_as(x), (draw(3, 4),), {}
    ),
    "permute: a view": Right(
        permute,
        permuted_back,
        (draw(2, 3, 4),),
        {"order": (2, 0, 1)},
    ),
    "concatenate: parts of the upstream": Right(
        concatenate,
        lambda dout, x, y: dout.split((x.shape[-1], y.shape[-1]), -1),
        columns((3, 4), (3, 2)),
        {},
    ),
    "stack: one slot of a tuple": Right(
        stack, lambda dout: (dout.unbind(0),), ([*columns((3, 4), (3, 4), (3, 4))],), {}
    ),
    "scaled sum: one result in both places": Right(
        scaled_sum, scaled_sum_backward, columns((3, 4), (3, 4)), {}
    ),
    "affine: a record of gradients": Right(
        affine, affine_gradients, columns((3, 4), (1, 4), (4,)), {}
    ),
    "square: in place on a copy": Right(
        square, lambda dout, x: dout.clone().mul_(x).mul_(2), (draw(3, 4),), {}
    ),
    "square: blocks of four rows and what is left": Right(
        square, square_in_blocks_with_tail, (draw(6, 3),), {}
    ),
    "square: the upstream scaled before and after": Right(
        square, square_scaled_for_safety, (draw(3, 4),), {}
    ),
    "square: early exit for a zero upstream": Right(
        square, square_early_exit_for_zero, (draw(3, 4),), {}
    ),
    "square: by autograd": Right(square, square_by_autograd, (draw(3, 4),), {}),
    "square: in float64, and cast back": Right(
        square,
        lambda dout, x: (2 * dout.double() * x.double()).to(x.dtype),
        (draw(3, 4, dtype=torch.float32),),
        {},
    ),
    "square: asks for more than it needs": Right(
        square, lambda dout, x, out: 2 * dout * x, (draw(3, 4),), {}
    ),
    "square: the upstream read with its own strides": Right(
        square,
        lambda dout, x: 2 * x * dout.as_strided(dout.shape, dout.stride(), dout.storage_offset()),
        (draw(3, 4),),
        {},
    ),
    "first of two: zeros for the input that is not used": Right(
        first,
        lambda dout, y: (2 * dout, y.new_zeros(()).expand(y.shape)),
        columns((3, 4), (4,)),
        {},
    ),
    "pick: no place for the index": Right(
        pick,
        lambda dout, x, index: torch.zeros_like(x).scatter_add(-1, index, dout),
        (draw(3, 4), tensor([[0, 0], [3, 1], [2, 2]])),
        {},
    ),
    "largest: at the kept index, by comparing": Right(
        largest,
        lambda dout, x, index: (
            dout.unsqueeze(-1) * (torch.arange(x.shape[-1], device=x.device) == index.unsqueeze(-1))
        ),
        (draw(3, 4),),
        {},
    ),
    "polar: an output whose upstream counts for nothing": Right(
        polar, lambda dsize, dsign, sign: dsize * sign, (draw(3, 4),), {}
    ),
    "lower triangle: its ones kept between calls by size and dtype": Right(
        lower_triangle,
        lambda dout: dout * triangle(*dout.shape[-2:], dout.dtype),
        (draw(4, 4),),
        {},
    ),
    "convolve around: in the frequencies": Right(
        convolve_around, convolve_around_backward, columns((3, 8), (3, 8)), {}
    ),
}
