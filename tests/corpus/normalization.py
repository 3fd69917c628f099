"""Layer, batch, group and root-mean-square normalization, unit vectors, softmax."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, tensor

from backprop_ops import Kept, sum_to
from tests.corpus import right, wrong
from tests.corpus.kinds import Kind
from tests.corpus.samples import draw, draws

X = draw(4, 6)
SCALED = draws((4, 6), (6,))
LAYER = draws((4, 6), (6,), (6,))
BATCH = draws((8, 3), (3,), (3,))
SQUARE = draws((5, 5), (5,), (5,))
SCORES = draw(3, 5)
TWO = draws((3, 5), (3, 5))
WITHOUT_GAIN = (draw(4, 6), torch.ones(6, dtype=torch.float64), draw(6, seed=2))
MAPS = draws((2, 4, 3), (4,))
TEMPERATURE = tensor(1.5, dtype=torch.float64)


class Normalized(NamedTuple):
    """Some backwards take the kept fields, others compute them again."""

    out: Tensor
    xhat: Kept
    inv_std: Kept


class Scaled(NamedTuple):
    out: Tensor
    inv_rms: Kept


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def layernorm_dx(dxhat: Tensor, xhat: Tensor, inv_std: Tensor) -> Tensor:
    return inv_std * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))


def rmsnorm_by(dx):
    """The backward whose dx is ``dx(dout, x, gain, inv_rms)``; dgain is right."""

    def rmsnorm_backward(dout, x, gain, inv_rms):
        return dx(dout, x, gain, inv_rms), sum_to(dout * x * inv_rms, gain.shape)

    rmsnorm_backward.__name__ = dx.__name__
    return rmsnorm_backward


def rmsnorm_dx(dout: Tensor, x: Tensor, gain: Tensor, inv_rms: Tensor) -> Tensor:
    dxhat, xhat = dout * gain, x * inv_rms
    return inv_rms * (dxhat - xhat * mean(dxhat * xhat))


def layernorm(x: Tensor, gain: Tensor, bias: Tensor | None, *, eps: float = 1e-5) -> Normalized:
    deviation = x - x.mean(-1, keepdim=True)
    inv_std = ((deviation * deviation).mean(-1, keepdim=True) + eps).rsqrt()
    xhat = deviation * inv_std
    return Normalized(xhat * gain if bias is None else xhat * gain + bias, xhat, inv_std)


def layernorm_by(dx):
    """The backward whose dx is ``dx(dxhat, xhat, inv_std)``; dgain and dbias are right."""

    def layernorm_backward(dout, gain, bias, xhat, inv_std):
        dbias = None if bias is None else sum_to(dout, bias.shape)
        return dx(dout * gain, xhat, inv_std), sum_to(dout * xhat, gain.shape), dbias

    layernorm_backward.__name__ = dx.__name__
    return layernorm_backward


@right(layernorm, *LAYER)
@layernorm_by
def layernorm_whole_jacobian(dxhat, xhat, inv_std):
    """∂x̂ᵢ/∂xⱼ = (δᵢⱼ - 1/n - x̂ᵢx̂ⱼ/n) / σ, written out."""
    n = xhat.shape[-1]
    eye = torch.eye(n, dtype=xhat.dtype, device=xhat.device)
    jacobian = eye - (1 + xhat.unsqueeze(-1) * xhat.unsqueeze(-2)) / n
    return (dxhat.unsqueeze(-2) @ jacobian).squeeze(-2) * inv_std


@right(layernorm, *draws((2, 3, 5), (5,), (5,)))
@layernorm_by
def centred_last(dxhat, xhat, inv_std):
    along = dxhat - xhat * mean(dxhat * xhat)
    return inv_std * (along - mean(along))


@right(layernorm, *SCALED, None)
@layernorm_by
def without_a_bias(dxhat, xhat, inv_std):
    return layernorm_dx(dxhat, xhat, inv_std)


@wrong(layernorm, *LAYER, kind=Kind.STATISTICS, mistake="missing-mean-term")
@layernorm_by
def mean_taken_for_a_constant(dxhat, xhat, inv_std):
    return inv_std * (dxhat - xhat * mean(dxhat * xhat))


@wrong(layernorm, *LAYER, kind=Kind.STATISTICS, mistake=("missing-term", "missing-mean-term"))
@layernorm_by
def deviation_taken_for_a_constant(dxhat, xhat, inv_std):
    return inv_std * (dxhat - mean(dxhat))


@wrong(layernorm, *LAYER, kind=Kind.EPS, mistake="bessel")
@layernorm_by
def n_minus_1_in_the_last_term(dxhat, xhat, inv_std):
    return inv_std * (
        dxhat - mean(dxhat) - xhat * (dxhat * xhat).sum(-1, keepdim=True) / (xhat.shape[-1] - 1)
    )


@wrong(layernorm, *LAYER, kind=Kind.EPS, mistake="factor")
@layernorm_by
def divided_by_inv_std(dxhat, xhat, inv_std):
    return (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)) / inv_std


@wrong(
    layernorm,
    *WITHOUT_GAIN,
    kind=Kind.STATISTICS,
    mistake=("missing-mean-term", "missing-term", "factor"),
)
def gain_applied_after_the_means(dout, gain, bias, xhat, inv_std):
    # a gain as it is before training hides it
    dx = gain * layernorm_dx(dout, xhat, inv_std)
    return dx, sum_to(dout * xhat, gain.shape), sum_to(dout, bias.shape)


@wrong(layernorm, *WITHOUT_GAIN, kind=Kind.VARIANT, mistake=("missing-term", "factor"))
def gain_forgotten(dout, gain, bias, xhat, inv_std):
    dx = layernorm_dx(dout, xhat, inv_std)
    return dx, sum_to(dout * xhat, gain.shape), sum_to(dout, bias.shape)


@wrong(
    layernorm,
    *draws((1, 6), (6,), (6,)),
    kind=Kind.BROADCAST,
    mistake=("missing-reduction", "ignored-rows", "upstream-collapsed", "size-one"),
)
def first_row_for_gain_and_bias(dout, gain, bias, xhat, inv_std):
    return layernorm_dx(dout * gain, xhat, inv_std), (dout * xhat)[0], dout[0]


def standardize_rows(x: Tensor, *, eps: float = 1e-5) -> Tensor:
    deviation = x - x.mean(-1, keepdim=True)
    return deviation / ((deviation * deviation).mean(-1, keepdim=True) + eps).sqrt()


def standardize_rows_by(inv_std):
    """The backward that computes the statistics again, by ``inv_std(x, eps)``."""

    def standardize_rows_backward(dout: Tensor, x: Tensor, *, eps: float) -> Tensor:
        scale = inv_std(x, eps)
        return layernorm_dx(dout, (x - mean(x)) * scale, scale)

    standardize_rows_backward.__name__ = inv_std.__name__
    return standardize_rows_backward


@right(standardize_rows, X)
@standardize_rows_by
def everything_again_from_x(x, eps):
    return (mean((x - mean(x)) ** 2) + eps) ** -0.5


@wrong(
    standardize_rows, draw(4, 6, dtype=torch.float32) * 30, kind=Kind.EPS, mistake=("eps", "nan")
)
@standardize_rows_by
def standardize_rows_eps_left_out(x, eps):
    return x.var(-1, correction=0, keepdim=True).rsqrt()


@wrong(standardize_rows, X, kind=Kind.EPS, mistake="eps")
@standardize_rows_by
def eps_outside_the_root(x, eps):
    return 1 / (x.std(-1, correction=0, keepdim=True) + eps)


@wrong(standardize_rows, X, kind=Kind.OVERFLOW, mistake=("cancellation", "nan"))
@standardize_rows_by
def variance_as_a_difference_of_squares(x, eps):  # which cancels where the mean is large
    return (mean(x * x) - mean(x) ** 2 + eps).rsqrt()


def standardize_by_std(x: Tensor, *, eps: float = 1e-3) -> Tensor:
    """eps is added to the standard deviation, not to the variance."""
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, correction=0, keepdim=True) + eps)


@wrong(standardize_by_std, X, kind=Kind.NAN_AT_ZERO, mistake="nan")
def divides_by_zero_for_a_constant_row(dout, x, *, eps):
    std = x.std(-1, correction=0, keepdim=True)
    deviation = x - mean(x)
    along = deviation * mean(dout * deviation) / (std * (std + eps))
    return (dout - mean(dout) - along) / (std + eps)


def scale_to_range(x: Tensor, *, eps: float = 1e-3) -> Tensor:
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    return (x - low) / (high - low + eps)


@right(scale_to_range, X)
def ties_to_the_first(dout, x, out, *, eps):
    spread = x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True) + eps
    dhigh = -(dout * out).sum(-1, keepdim=True) / spread
    dlow = -dhigh - dout.sum(-1, keepdim=True) / spread
    dx = dout / spread
    dx = dx.scatter_add(-1, x.argmax(-1, keepdim=True), dhigh)
    return dx.scatter_add(-1, x.argmin(-1, keepdim=True), dlow)


@wrong(scale_to_range, X, kind=Kind.STATISTICS, mistake=("missing-term", "missing-mean-term"))
def its_ends_taken_for_constants(dout, x, *, eps):
    return dout / (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True) + eps)


def demean(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


@right(demean, X)
def centred_twice(dout):
    return dout - mean(dout) - mean(dout - mean(dout))


@wrong(demean, X, kind=Kind.STATISTICS, mistake="missing-mean-term")
def upstream_as_it_is(dout):
    return dout.clone()


def batchnorm(
    x: Tensor, gain: Tensor, bias: Tensor, *, eps: float = 1e-5, correction: int = 1
) -> Normalized:
    """Over the rows of a matrix."""
    deviation = x - x.mean(0, keepdim=True)
    var = (deviation * deviation).sum(0, keepdim=True) / (x.shape[0] - correction)
    inv_std = (var + eps).rsqrt()
    xhat = deviation * inv_std
    return Normalized(xhat * gain + bias, xhat, inv_std)


def batchnorm_by(dx):
    """The backward whose dx is ``dx(dxhat, xhat, inv_std, correction)``, the rest right."""

    def batchnorm_backward(dout, gain, bias, xhat, inv_std, *, correction):
        dgain, dbias = sum_to(dout * xhat, gain.shape), sum_to(dout, bias.shape)
        return dx(dout * gain, xhat, inv_std, correction), dgain, dbias

    batchnorm_backward.__name__ = dx.__name__
    return batchnorm_backward


def batchnorm_dx(dxhat, xhat, inv_std, n, dof):
    """With n for the mean's count and dof for the variance's."""
    return inv_std * (dxhat - dxhat.sum(0) / n - xhat * (dxhat * xhat).sum(0) / dof)


@right(batchnorm, *BATCH)
@batchnorm_by
def in_one_expression(dxhat, xhat, inv_std, correction):
    n = len(xhat)
    bracket = n * dxhat - dxhat.sum(0) - n * xhat * (dxhat * xhat).sum(0) / (n - correction)
    return inv_std * bracket / n


@right(batchnorm, *draws((8, 3), (1, 3), (1, 3)), correction=0)
def step_by_step(dout, x, gain, bias, inv_std, *, correction):
    """One line for each of the forward's steps, as the lecture's atomic backward has it."""
    n = len(x)
    deviation = x - x.mean(0, keepdim=True)
    dxhat = dout * gain
    dinv_std = (dxhat * deviation).sum(0, keepdim=True)
    dvar = -0.5 * inv_std**3 * dinv_std
    dsquares = (dvar / (n - correction)).expand_as(x)
    ddeviation = dxhat * inv_std + 2 * deviation * dsquares
    dmean = -ddeviation.sum(0, keepdim=True)
    dx = ddeviation + dmean / n
    return dx, sum_to(dout * deviation * inv_std, gain.shape), sum_to(dout, bias.shape)


@wrong(batchnorm, *BATCH, kind=Kind.EPS, mistake="bessel")
@batchnorm_by
def n_for_n_minus_correction(dxhat, xhat, inv_std, correction):
    return batchnorm_dx(dxhat, xhat, inv_std, len(xhat), len(xhat))


@wrong(batchnorm, *BATCH, kind=Kind.EPS, mistake=("option-ignored", "bessel"))
@batchnorm_by
def n_minus_1_whatever_the_correction(dxhat, xhat, inv_std, correction):
    return batchnorm_dx(dxhat, xhat, inv_std, len(xhat), len(xhat) - 1)


@wrong(batchnorm, *BATCH, kind=Kind.MEAN_COUNT, mistake=("hard-coded-size", "wrong-count"))
@batchnorm_by
def a_batch_of_eight(dxhat, xhat, inv_std, correction):
    return batchnorm_dx(dxhat, xhat, inv_std, 8, 8 - correction)


@wrong(batchnorm, *SQUARE, kind=Kind.MEAN_COUNT, mistake="wrong-count")
@batchnorm_by
def columns_counted_for_the_rows(dxhat, xhat, inv_std, correction):
    return batchnorm_dx(dxhat, xhat, inv_std, xhat.shape[1], xhat.shape[1] - correction)


@wrong(batchnorm, *BATCH, kind=Kind.STATISTICS, mistake=("missing-mean-term", "missing-term"))
@batchnorm_by
def statistics_taken_for_constants(dxhat, xhat, inv_std, correction):
    return dxhat * inv_std


@wrong(batchnorm, *SQUARE, correction=0, kind=Kind.BROADCAST, mistake=("wrong-axis", "transposed"))
@batchnorm_by
def means_over_the_columns(dxhat, xhat, inv_std, correction):
    return layernorm_dx(dxhat, xhat, inv_std)


def batchnorm_of_maps(x: Tensor, *, eps: float = 1e-5) -> Normalized:
    """x (n, c, l), over n and l."""
    deviation = x - x.mean((0, 2), keepdim=True)
    inv_std = ((deviation * deviation).mean((0, 2), keepdim=True) + eps).rsqrt()
    xhat = deviation * inv_std
    return Normalized(xhat, xhat, inv_std)


def batchnorm_of_maps_by(count):
    """The backward that divides by ``count(x̂)``."""

    def batchnorm_of_maps_backward(dout: Tensor, xhat: Tensor, inv_std: Tensor) -> Tensor:
        n = count(xhat)
        centre = dout.sum((0, 2), keepdim=True) / n
        along = xhat * (dout * xhat).sum((0, 2), keepdim=True) / n
        return inv_std * (dout - centre - along)

    batchnorm_of_maps_backward.__name__ = count.__name__
    return batchnorm_of_maps_backward


@right(batchnorm_of_maps, draw(3, 2, 4))
@batchnorm_of_maps_by
def counted_by_the_elements_of_a_channel(xhat):
    return xhat.shape[0] * xhat.shape[2]


@wrong(batchnorm_of_maps, draw(8, 3, 1), kind=Kind.MEAN_COUNT, mistake="wrong-count")
@batchnorm_of_maps_by
def batch_counted_not_the_positions(xhat):
    return xhat.shape[0]


def batchnorm_by_mode(
    x: Tensor, *, mean: Tensor, var: Tensor, training: bool = True, eps: float = 1e-5
) -> Normalized:
    """With the batch's statistics, or in evaluation with those that are given."""
    centre = x.mean(0) if training else mean.to(x.dtype)
    deviation = x - centre
    variance = (deviation * deviation).mean(0) if training else var.to(x.dtype)
    inv_std = (variance + eps).rsqrt()
    return Normalized(deviation * inv_std, deviation * inv_std, inv_std)


RUNNING = {"mean": draw(4, seed=3), "var": draw(4, seed=4).abs() + 0.5}


@right(batchnorm_by_mode, draw(6, 4), **RUNNING, training=False)
def either(dout, xhat, inv_std, *, training):
    if training:
        return as_in_training_always(dout, xhat, inv_std)
    return dout * inv_std


@wrong(batchnorm_by_mode, draw(6, 4), **RUNNING, kind=Kind.STATISTICS, mistake="option-ignored")
def as_in_training_always(dout, xhat, inv_std):
    return inv_std * (dout - dout.mean(0) - xhat * (dout * xhat).mean(0))


def groupnorm(x: Tensor, gain: Tensor, *, groups: int = 1, eps: float = 1e-5) -> Normalized:
    """x (n, c, l), over l and the channels of a group; one gain a channel."""
    grouped = x.reshape(len(x), groups, x.shape[1] // groups, x.shape[2])
    deviation = grouped - grouped.mean((2, 3), keepdim=True)
    inv_std = ((deviation * deviation).mean((2, 3), keepdim=True) + eps).rsqrt()
    xhat = (deviation * inv_std).reshape(x.shape)
    return Normalized(xhat * gain[:, None], xhat, inv_std)


@right(groupnorm, *MAPS, groups=2)
def groups_as_rows(dout, gain, xhat, inv_std, *, groups):
    n, c, length = dout.shape
    rows = (n, groups, c // groups * length)
    dxhat = torch.einsum("ncl,c->ncl", dout, gain).reshape(rows)
    dx = layernorm_dx(dxhat, xhat.reshape(rows), inv_std.reshape(n, groups, 1))
    dgain = torch.einsum("ncl,ncl->c", dout, xhat)
    return dx.reshape(dout.shape), sum_to(dgain, gain.shape)


@wrong(
    groupnorm,
    *MAPS,
    groups=1,
    kind=Kind.BROADCAST,
    mistake=("wrong-axis", "option-ignored", "wrong-count"),
)
def means_over_all_channels(dout, gain, xhat, inv_std):
    dxhat = dout * gain[:, None]
    centre = dxhat.mean((1, 2), keepdim=True)
    along = xhat * (dxhat * xhat).mean((1, 2), keepdim=True)
    scale = inv_std.reshape(len(dout), -1).repeat_interleave(dout.shape[1] // inv_std.shape[1], 1)
    return scale[:, :, None] * (dxhat - centre - along), (dout * xhat).sum((0, 2))


@wrong(groupnorm, *MAPS, groups=2, kind=Kind.LAYOUT, mistake="upstream-layout")
def views_of_the_upstream(dout, gain, xhat, inv_std, *, groups):
    """``view`` for ``reshape``, which an upstream in another layout does not allow."""
    dxhat = (dout.view(len(dout), -1) * gain.repeat_interleave(dout.shape[2])).view(
        len(dout), groups, -1
    )
    dx = layernorm_dx(dxhat, xhat.view(dxhat.shape), inv_std.view(len(dout), groups, 1))
    return dx.view(dout.shape), (dout * xhat).sum((0, 2))


def instancenorm(x: Tensor, *, eps: float = 1e-5) -> Tensor:
    """x (n, c, l), over l."""
    deviation = x - x.mean(2, keepdim=True)
    return deviation * ((deviation * deviation).mean(2, keepdim=True) + eps).rsqrt()


@right(instancenorm, draw(2, 3, 5))
def as_a_layernorm_of_rows(dout, x, out, *, eps):
    inv_std = (x.var(2, correction=0, keepdim=True) + eps).rsqrt()
    return layernorm_dx(dout, out, inv_std)


@wrong(instancenorm, draw(1, 3, 5), kind=Kind.STATISTICS, mistake="wrong-axis")
def means_over_the_batch_too(dout, x, out, *, eps):
    inv_std = (x.var(2, correction=0, keepdim=True) + eps).rsqrt()
    centre = dout.mean((0, 2), keepdim=True)
    return inv_std * (dout - centre - out * (dout * out).mean((0, 2), keepdim=True))


def rmsnorm(x: Tensor, gain: Tensor, *, eps: float = 1e-5) -> Scaled:
    inv_rms = ((x * x).mean(-1, keepdim=True) + eps).rsqrt()
    return Scaled(x * inv_rms * gain, inv_rms)


@right(rmsnorm, *SCALED)
@rmsnorm_by
def from_the_kept_scale(dout, x, gain, inv_rms):
    return rmsnorm_dx(dout, x, gain, inv_rms)


@wrong(rmsnorm, *SCALED, kind=Kind.STATISTICS, mistake="missing-term")
@rmsnorm_by
def size_taken_for_a_constant(dout, x, gain, inv_rms):
    return dout * gain * inv_rms


@wrong(rmsnorm, *SCALED, kind=Kind.VARIANT, mistake=("missing-mean-term", "missing-term"))
@rmsnorm_by
def centred_as_a_layernorm(dout, x, gain, inv_rms):
    return rmsnorm_dx(dout, x, gain, inv_rms) - inv_rms * mean(dout * gain)


@wrong(
    rmsnorm,
    X,
    torch.ones(6, dtype=torch.float64),
    kind=Kind.STATISTICS,
    mistake=("missing-term", "factor"),
)
@rmsnorm_by
def gain_missing_from_the_projection(dout, x, gain, inv_rms):
    return inv_rms * (dout * gain - x * inv_rms * mean(dout * x * inv_rms))


@wrong(
    rmsnorm,
    X,
    torch.ones(6, dtype=torch.float64),
    kind=Kind.VARIANT,
    mistake=("factor", "missing-term"),
)
def square_of_the_gain_in_the_projection(dout, x, gain, inv_rms, out):
    # the output for the normalized x
    return inv_rms * (dout * gain - out * mean(dout * out)), sum_to(dout * x * inv_rms, gain.shape)


@wrong(rmsnorm, *SCALED, kind=Kind.NAN_AT_ZERO, mistake="nan")
def gain_gradient_from_the_output(dout, x, gain, inv_rms, out):
    return rmsnorm_dx(dout, x, gain, inv_rms), sum_to(dout * out / gain, gain.shape)


@wrong(
    rmsnorm,
    draw(4, 6, dtype=torch.float32) * 10,
    draw(6, seed=1, dtype=torch.float32),
    kind=Kind.EPS,
    mistake=("eps", "nan"),
)
def rmsnorm_eps_left_out(dout, x, gain):
    inv_rms = mean(x * x).rsqrt()
    return rmsnorm_dx(dout, x, gain, inv_rms), sum_to(dout * x * inv_rms, gain.shape)


def rmsnorm_from_one(x: Tensor, gain: Tensor, *, eps: float = 1e-5) -> Scaled:
    """A gain of zero leaves the normalized x as it is."""
    inv_rms = ((x * x).mean(-1, keepdim=True) + eps).rsqrt()
    return Scaled(x * inv_rms * (1 + gain), inv_rms)


@right(rmsnorm_from_one, *SCALED)
@rmsnorm_by
def one_added_to_the_gain(dout, x, gain, inv_rms):
    return rmsnorm_dx(dout + dout * gain, x, x.new_ones(1), inv_rms)


@wrong(rmsnorm_from_one, *SCALED, kind=Kind.VARIANT, mistake="missing-term")
@rmsnorm_by
def one_forgotten(dout, x, gain, inv_rms):
    return rmsnorm_dx(dout, x, gain, inv_rms)


def rmsnorm_in_float32(x: Tensor, gain: Tensor, *, eps: float = 1e-5) -> Tensor:
    wide = x.float()
    return (wide * ((wide * wide).mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype) * gain


@right(rmsnorm_in_float32, *draws((4, 6), (6,), dtype=torch.float32))
def in_float32_inside_as_its_forward(dout, x, gain, *, eps):
    """The gain in the dtype of x."""
    wide = x.float()
    inv_rms = (mean(wide * wide) + eps).rsqrt()
    xhat = wide * inv_rms
    dxhat = (dout * gain).to(x.dtype).float()
    dx = inv_rms * (dxhat - xhat * mean(dxhat * xhat))
    return dx.to(x.dtype), sum_to(dout * xhat.to(x.dtype), gain.shape)


# Unit vectors.


def unit_vector(x: Tensor, *, eps: float = 1e-3) -> Tensor:
    """x / max(|x|, eps)"""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=eps)


@right(unit_vector, X)
def short_ones_apart(dout, x, out, *, eps):
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    along = torch.where(size > eps, out * (dout * out).sum(-1, keepdim=True), 0)
    return (dout - along) / size.clamp(min=eps)


@wrong(unit_vector, X, kind=Kind.STATISTICS, mistake="missing-term")
def not_projected(dout, x, *, eps):
    return dout / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=eps)


@wrong(unit_vector, X, kind=Kind.KINK, mistake=("eps", "kink"))
def short_ones_projected_too(dout, x, *, eps):
    """The clamp only scales those."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    direction = x / size.clamp(min=1e-30)
    along = direction * (dout * direction).sum(-1, keepdim=True)
    return (dout - along) / size.clamp(min=eps)


def smooth_unit_vector(x: Tensor, *, eps: float = 1e-8) -> Tensor:
    """x / √(|x|² + eps)"""
    return x / ((x * x).sum(-1, keepdim=True) + eps).sqrt()


@right(smooth_unit_vector, X)
def in_two_terms(dout, x, *, eps):
    size = (torch.linalg.vecdot(x, x).unsqueeze(-1) + eps).sqrt()
    unit = x / size
    return dout / size - unit * ((dout * unit).sum(-1, keepdim=True) / size)


@wrong(smooth_unit_vector, draw(4, 6, dtype=torch.float32), kind=Kind.EPS, mistake=("eps", "nan"))
def smooth_unit_vector_eps_left_out(dout, x):
    size = (x * x).sum(-1, keepdim=True).sqrt()
    direction = x / size
    return (dout - direction * (dout * direction).sum(-1, keepdim=True)) / size


def weightnorm(v: Tensor, g: Tensor) -> Tensor:
    """Rows in the direction of v's, of length g."""
    return g[:, None] * v / torch.linalg.vector_norm(v, dim=1, keepdim=True)


def weightnorm_by(dv):
    """The backward whose dv is ``dv(dout, u, size, g)``, u the unit rows; dg is right."""

    def weightnorm_backward(dout: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        size = torch.linalg.vector_norm(v, dim=1, keepdim=True)
        unit = v / size
        dg = sum_to((dout * unit).sum(1), g.shape)
        return sum_to(dv(dout, unit, size, g[:, None]), v.shape), dg

    weightnorm_backward.__name__ = dv.__name__
    return weightnorm_backward


def across(dout: Tensor, unit: Tensor) -> Tensor:
    """The part of dout at right angles to the unit rows."""
    return dout - unit * (dout * unit).sum(-1, keepdim=True)


@right(weightnorm, SCORES, draw(3, seed=1))
@weightnorm_by
def across_the_unit_rows(dout, unit, size, g):
    return g / size * across(dout, unit)


@wrong(
    weightnorm,
    SCORES,
    torch.linalg.vector_norm(SCORES, dim=1),
    kind=Kind.VARIANT,
    mistake=("factor", "missing-term"),
)
@weightnorm_by
def ratio_of_the_lengths_left_out(dout, unit, size, g):
    # it is one before training, when g is set to the length of v
    return across(dout, unit)


@wrong(weightnorm, *draws((1, 5), (1,)), kind=Kind.STATISTICS, mistake="wrong-axis")
def one_length_for_all_rows(dout, v, g):
    size = torch.linalg.vector_norm(v)
    unit = v / size
    dv = g[:, None] / size * (dout - unit * (dout * unit).sum())
    return dv, (dout * unit).sum(1)


def cosine(x: Tensor, y: Tensor, *, eps: float = 1e-3) -> Tensor:
    if x.shape != y.shape:
        raise ValueError(f"x and y must be of one shape, got {x.shape} and {y.shape}")
    return (unit_vector(x, eps=eps) * unit_vector(y, eps=eps)).sum(-1)


def cosine_by(dx):
    """The backward with ``dx(dout, a, b, size)`` for x, and the same for y; a, b clamped units."""

    def cosine_backward(dout, x, y, *, eps):
        size_x = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        size_y = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
        a, b, d = x / size_x.clamp(min=eps), y / size_y.clamp(min=eps), dout.unsqueeze(-1)
        dx_, dy_ = dx(d, a, b, size_x, eps), dx(d, b, a, size_y, eps)
        return sum_to(dx_, x.shape), sum_to(dy_, y.shape)

    cosine_backward.__name__ = dx.__name__
    return cosine_backward


@right(cosine, *TWO)
@cosine_by
def through_the_unit_vectors(dout, a, b, size, eps):
    along = torch.where(size > eps, a * (a * b).sum(-1, keepdim=True), 0)
    return dout * (b - along) / size.clamp(min=eps)


@wrong(cosine, *TWO, kind=Kind.STATISTICS, mistake="missing-term")
@cosine_by
def nothing_taken_off_along_x(dout, a, b, size, eps):
    return dout * b / size.clamp(min=eps)


@wrong(cosine, *TWO, kind=Kind.MISSING, mistake="swapped-inputs")
def x_and_y_exchanged(dout, x, y, *, eps):
    return through_the_unit_vectors(dout, x, y, eps=eps)[::-1]


@wrong(cosine, *TWO, kind=Kind.NAN_AT_ZERO, mistake=("nan", "eps"))
def zero_over_zero_for_a_zero_vector(dout, x, y, out):
    a = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    b = y / torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    d, c = dout.unsqueeze(-1), out.unsqueeze(-1)
    dx = d * (b - c * a) / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    dy = d * (a - c * b) / torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    return dx, dy


# Softmax.


def softmax(x: Tensor, *, dim: int = -1) -> Tensor:
    return x.softmax(dim)


@right(softmax, SCORES)
def softmax_whole_jacobian(dout, out, *, dim):
    """diag(y) - y yᵀ, written out."""
    y, d = out.movedim(dim, -1), dout.movedim(dim, -1)
    jacobian = torch.diag_embed(y) - y.unsqueeze(-1) * y.unsqueeze(-2)
    return (jacobian @ d.unsqueeze(-1)).squeeze(-1).movedim(-1, dim)


@right(softmax, SCORES, dim=0)
def in_two_products(dout, out, *, dim):
    product = dout * out
    return product - out * product.sum(dim, keepdim=True)


@right(softmax, SCORES)
def from_x_again(dout, x, *, dim):
    y = x.softmax(dim)
    return y * (dout - (y * dout).sum(dim, keepdim=True))


@wrong(softmax, SCORES, kind=Kind.STATISTICS, mistake="missing-term")
def only_the_diagonal(dout, out):
    return dout * out * (1 - out)


@wrong(softmax, SCORES, kind=Kind.MEAN_COUNT, mistake=("factor", "wrong-count"))
def mean_for_the_sum(dout, out, *, dim):
    return out * (dout - (dout * out).mean(dim, keepdim=True))


@wrong(softmax, SCORES, dim=-1, kind=Kind.BROADCAST, mistake=("wrong-axis", "option-ignored"))
def along_the_last_dimension_whatever_dim(dout, out):
    return out * (dout - (dout * out).sum(-1, keepdim=True))


@wrong(softmax, SCORES, kind=Kind.VARIANT, mistake=("missing-term", "factor"))
def without_the_weights_in_the_sum(dout, out, *, dim):
    return out * (dout - dout.sum(dim, keepdim=True))


def softmax_of_columns(x: Tensor) -> Tensor:
    return x.softmax(0)


@right(softmax_of_columns, SCORES)
def a_transposed_view(dout, out):
    """Computed along the last dimension."""
    d, y = dout.movedim(0, -1), out.movedim(0, -1)
    return (y * (d - (d * y).sum(-1, keepdim=True))).movedim(-1, 0)


@wrong(softmax_of_columns, draw(4, 4), kind=Kind.BROADCAST, mistake="wrong-axis")
def sums_along_the_rows(dout, out):
    return out * (dout - (dout * out).sum(1, keepdim=True))


def tempered_softmax(x: Tensor, *, temperature: float = 1.0) -> Tensor:
    return (x / temperature).softmax(-1)


@right(tempered_softmax, SCORES, temperature=2.0)
def scaled_before_the_sum(dout, out, *, temperature):
    return in_two_products(dout / temperature, out, dim=-1)


@wrong(
    tempered_softmax,
    SCORES,
    temperature=1.0,
    kind=Kind.VARIANT,
    mistake=("option-ignored", "factor"),
)
def temperature_forgotten(dout, out):
    return out * (dout - (dout * out).sum(-1, keepdim=True))


def masked_softmax(x: Tensor, *, mask: Tensor) -> Tensor:
    """Zero where the mask is false, in all of a row too."""
    lowest = torch.finfo(x.dtype).min
    return torch.where(mask, torch.where(mask, x, lowest).softmax(-1), 0)


@right(masked_softmax, draw(3, 4), mask=draw(3, 4, seed=1) > -0.5)
def masked_softmax_from_the_output(dout, x, out):
    return sum_to(out * (dout - (dout * out).sum(-1, keepdim=True)), x.shape)


@wrong(
    masked_softmax,
    draw(3, 4),
    mask=tensor([[True, False, True, True], [True] * 4, [False, True, True, False]]),
    kind=Kind.MASKED_ROW,
    mistake="nan",
)
def a_row_with_nothing_left(dout, x, *, mask):
    """nan in a row of nothing but -inf."""
    y = x.masked_fill(~mask, -math.inf).softmax(-1)
    return y * (dout - (dout * y).sum(-1, keepdim=True))


def log_softmax(x: Tensor) -> Tensor:
    return x.log_softmax(-1)


@right(log_softmax, SCORES)
def log_softmax_from_the_output(dout, out):
    return torch.addcmul(dout, out.exp(), dout.sum(-1, keepdim=True), value=-1)


@wrong(
    log_softmax,
    SCORES,
    kind=Kind.UPSTREAM_LOST,
    mistake=("upstream-ignored", "upstream-collapsed", "missing-term"),
)
def upstream_taken_to_sum_to_one(dout, out):
    return dout - out.exp()


@wrong(
    log_softmax, draw(1, 5), kind=Kind.UPSTREAM_LOST, mistake=("upstream-collapsed", "wrong-axis")
)
def sum_of_the_whole_upstream(dout, out):
    return dout - out.exp() * dout.sum()


@wrong(log_softmax, SCORES, kind=Kind.OVERFLOW, mistake=("overflow", "nan"))
def exponentials_of_x_itself(dout, x):
    y = x.exp() / x.exp().sum(-1, keepdim=True)
    return dout - y * dout.sum(-1, keepdim=True)


@wrong(log_softmax, SCORES, kind=Kind.OVERFLOW, mistake=("nan", "overflow"))
def through_the_gradient_of_the_log(dout, out):  # 1 / y is inf where y underflows
    return out.exp() * (dout / out.exp() - (dout / out.exp() * out.exp()).sum(-1, keepdim=True))


def tempered_log_softmax(x: Tensor, *, temperature: float = 1.0) -> Tensor:
    return (x / temperature).log_softmax(-1)


@wrong(tempered_log_softmax, SCORES, kind=Kind.VARIANT, mistake=("factor", "option-ignored"))
def square_of_the_temperature(dout, out, *, temperature):
    return (dout - out.exp() * dout.sum(-1, keepdim=True)) / temperature**2


def softmax_of_learned_temperature(x: Tensor, temperature: Tensor) -> Tensor:
    return (x / temperature).softmax(-1)


@right(softmax_of_learned_temperature, SCORES, TEMPERATURE)
def two_gradients_from_one_product(dout, x, temperature, out):
    dscaled = out * (dout - (dout * out).sum(-1, keepdim=True))
    dtemperature = -dscaled * (x / temperature) / temperature
    return sum_to(dscaled / temperature, x.shape), sum_to(dtemperature, temperature.shape)


@wrong(softmax_of_learned_temperature, SCORES, TEMPERATURE, kind=Kind.VARIANT, mistake="sign")
def wrong_sign_for_the_temperature(dout, x, temperature, out):
    dx, dtemperature = two_gradients_from_one_product(dout, x, temperature, out)
    return dx, -dtemperature
