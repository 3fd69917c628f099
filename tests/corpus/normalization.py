"""Layer, batch, group and root-mean-square normalization, unit vectors, softmax."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, tensor

from backprop_ops import Kept, sum_to
from tests.corpus import Right, Wrong


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ones(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.ones(shape, dtype=dtype)


# The forwards: normalization. A record keeps what the backward would have to compute again.


class Normalized(NamedTuple):
    out: Tensor
    xhat: Kept
    inv_std: Kept


def layernorm(x: Tensor, gain: Tensor, bias: Tensor | None, *, eps: float = 1e-5) -> Normalized:
    deviation = x - x.mean(-1, keepdim=True)
    inv_std = ((deviation * deviation).mean(-1, keepdim=True) + eps).rsqrt()
    xhat = deviation * inv_std
    return Normalized(xhat * gain if bias is None else xhat * gain + bias, xhat, inv_std)


def standardize_rows(x: Tensor, *, eps: float = 1e-5) -> Tensor:
    deviation = x - x.mean(-1, keepdim=True)
    return deviation / ((deviation * deviation).mean(-1, keepdim=True) + eps).sqrt()


def standardize_by_std(x: Tensor, *, eps: float = 1e-3) -> Tensor:
    """eps is added to the standard deviation, not to the variance."""
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, correction=0, keepdim=True) + eps)


def scale_to_range(x: Tensor, *, eps: float = 1e-3) -> Tensor:
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    return (x - low) / (high - low + eps)


def demean(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def batchnorm(
    x: Tensor, gain: Tensor, bias: Tensor, *, eps: float = 1e-5, correction: int = 1
) -> Normalized:
    """Over the rows of a matrix."""
    deviation = x - x.mean(0, keepdim=True)
    var = (deviation * deviation).sum(0, keepdim=True) / (x.shape[0] - correction)
    inv_std = (var + eps).rsqrt()
    xhat = deviation * inv_std
    return Normalized(xhat * gain + bias, xhat, inv_std)


def batchnorm_of_maps(x: Tensor, *, eps: float = 1e-5) -> Normalized:
    """Of (n, c, l), over n and l."""
    deviation = x - x.mean((0, 2), keepdim=True)
    inv_std = ((deviation * deviation).mean((0, 2), keepdim=True) + eps).rsqrt()
    xhat = deviation * inv_std
    return Normalized(xhat, xhat, inv_std)


def batchnorm_by_mode(
    x: Tensor, *, mean: Tensor, var: Tensor, training: bool = True, eps: float = 1e-5
) -> Normalized:
    """With the batch's statistics, or in evaluation with those that are given."""
    centre = x.mean(0) if training else mean.to(x.dtype)
    deviation = x - centre
    variance = (deviation * deviation).mean(0) if training else var.to(x.dtype)
    inv_std = (variance + eps).rsqrt()
    return Normalized(deviation * inv_std, deviation * inv_std, inv_std)


def groupnorm(x: Tensor, gain: Tensor, *, groups: int = 1, eps: float = 1e-5) -> Normalized:
    """Of (n, c, l), over l and the channels of a group; a gain a channel."""
    grouped = x.reshape(len(x), groups, x.shape[1] // groups, x.shape[2])
    deviation = grouped - grouped.mean((2, 3), keepdim=True)
    inv_std = ((deviation * deviation).mean((2, 3), keepdim=True) + eps).rsqrt()
    xhat = (deviation * inv_std).reshape(x.shape)
    return Normalized(xhat * gain[:, None], xhat, inv_std)


def instancenorm(x: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Of (n, c, l), over l."""
    deviation = x - x.mean(2, keepdim=True)
    return deviation * ((deviation * deviation).mean(2, keepdim=True) + eps).rsqrt()


class Scaled(NamedTuple):
    out: Tensor
    inv_rms: Kept


def rmsnorm(x: Tensor, gain: Tensor, *, eps: float = 1e-5) -> Scaled:
    inv_rms = ((x * x).mean(-1, keepdim=True) + eps).rsqrt()
    return Scaled(x * inv_rms * gain, inv_rms)


def rmsnorm_from_one(x: Tensor, gain: Tensor, *, eps: float = 1e-5) -> Scaled:
    """A gain of zero leaves the normalized x as it is."""
    inv_rms = ((x * x).mean(-1, keepdim=True) + eps).rsqrt()
    return Scaled(x * inv_rms * (1 + gain), inv_rms)


def rmsnorm_in_float32(x: Tensor, gain: Tensor, *, eps: float = 1e-5) -> Tensor:
    wide = x.float()
    return (wide * ((wide * wide).mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype) * gain


# The forwards: unit vectors.


def unit_vector(x: Tensor, *, eps: float = 1e-3) -> Tensor:
    """x / max(|x|, eps)"""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=eps)


def smooth_unit_vector(x: Tensor, *, eps: float = 1e-8) -> Tensor:
    """x / √(|x|² + eps)"""
    return x / ((x * x).sum(-1, keepdim=True) + eps).sqrt()


def weightnorm(v: Tensor, g: Tensor) -> Tensor:
    """Rows in the direction of v's, of length g."""
    return g[:, None] * v / torch.linalg.vector_norm(v, dim=1, keepdim=True)


def cosine(x: Tensor, y: Tensor, *, eps: float = 1e-3) -> Tensor:
    if x.shape != y.shape:
        raise ValueError(f"x and y must be of one shape, came {x.shape} and {y.shape}")
    return (unit_vector(x, eps=eps) * unit_vector(y, eps=eps)).sum(-1)


# The forwards: softmax.


def softmax(x: Tensor, *, dim: int = -1) -> Tensor:
    return x.softmax(dim)


def softmax_of_columns(x: Tensor) -> Tensor:
    return x.softmax(0)


def tempered_softmax(x: Tensor, *, temperature: float = 1.0) -> Tensor:
    return (x / temperature).softmax(-1)


def masked_softmax(x: Tensor, *, mask: Tensor) -> Tensor:
    """Zero where the mask is false, in all of a row too."""
    lowest = torch.finfo(x.dtype).min
    return torch.where(mask, torch.where(mask, x, lowest).softmax(-1), 0)


def log_softmax(x: Tensor) -> Tensor:
    return x.log_softmax(-1)


def tempered_log_softmax(x: Tensor, *, temperature: float = 1.0) -> Tensor:
    return (x / temperature).log_softmax(-1)


def softmax_of_learned_temperature(x: Tensor, temperature: Tensor) -> Tensor:
    return (x / temperature).softmax(-1)


# Backwards, of which only dx differs.


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def layernorm_by(dx):
    """The backward whose dx is ``dx(dxhat, xhat, inv_std)``; dgain and dbias are right."""

    def layernorm_backward(dout, gain, bias, xhat, inv_std):
        dbias = None if bias is None else sum_to(dout, bias.shape)
        return dx(dout * gain, xhat, inv_std), sum_to(dout * xhat, gain.shape), dbias

    return layernorm_backward


def layernorm_dx(dxhat: Tensor, xhat: Tensor, inv_std: Tensor) -> Tensor:
    return inv_std * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))


def layernorm_gain_last(dout, gain, bias, xhat, inv_std):
    dx = gain * layernorm_dx(dout, xhat, inv_std)
    return dx, sum_to(dout * xhat, gain.shape), sum_to(dout, bias.shape)


def layernorm_gain_forgotten(dout, gain, bias, xhat, inv_std):
    dx = layernorm_dx(dout, xhat, inv_std)
    return dx, sum_to(dout * xhat, gain.shape), sum_to(dout, bias.shape)


def layernorm_first_row(dout, gain, bias, xhat, inv_std):
    return layernorm_dx(dout * gain, xhat, inv_std), (dout * xhat)[0], dout[0]


def standardize_rows_by(inv_std):
    """The backward that computes the statistics again, by ``inv_std(x, eps)``."""

    def standardize_rows_backward(dout: Tensor, x: Tensor, *, eps: float) -> Tensor:
        scale = inv_std(x, eps)
        return layernorm_dx(dout, (x - mean(x)) * scale, scale)

    return standardize_rows_backward


def standardize_by_std_unguarded(dout: Tensor, x: Tensor, *, eps: float) -> Tensor:
    std = x.std(-1, correction=0, keepdim=True)
    deviation = x - mean(x)
    along = deviation * mean(dout * deviation) / (std * (std + eps))
    return (dout - mean(dout) - along) / (std + eps)


def scale_to_range_by_constants(dout: Tensor, x: Tensor, *, eps: float) -> Tensor:
    return dout / (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True) + eps)


def scale_to_range_ties_to_first(dout: Tensor, x: Tensor, out: Tensor, *, eps: float) -> Tensor:
    spread = x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True) + eps
    dhigh = -(dout * out).sum(-1, keepdim=True) / spread
    dlow = -dhigh - dout.sum(-1, keepdim=True) / spread
    dx = dout / spread
    dx = dx.scatter_add(-1, x.argmax(-1, keepdim=True), dhigh)
    return dx.scatter_add(-1, x.argmin(-1, keepdim=True), dlow)


def layernorm_by_jacobian(dxhat: Tensor, xhat: Tensor, inv_std: Tensor) -> Tensor:
    """∂x̂ᵢ/∂xⱼ = (δᵢⱼ - 1/n - x̂ᵢx̂ⱼ/n) / σ, written out."""
    n = xhat.shape[-1]
    eye = torch.eye(n, dtype=xhat.dtype, device=xhat.device)
    jacobian = eye - (1 + xhat.unsqueeze(-1) * xhat.unsqueeze(-2)) / n
    return (dxhat.unsqueeze(-2) @ jacobian).squeeze(-2) * inv_std


def layernorm_centred_last(dxhat: Tensor, xhat: Tensor, inv_std: Tensor) -> Tensor:
    along = dxhat - xhat * mean(dxhat * xhat)
    return inv_std * (along - mean(along))


def batchnorm_by(dx):
    """The backward whose dx is ``dx(dxhat, xhat, inv_std, correction)``, the rest right."""

    def batchnorm_backward(dout, gain, bias, xhat, inv_std, *, correction):
        dgain, dbias = sum_to(dout * xhat, gain.shape), sum_to(dout, bias.shape)
        return dx(dout * gain, xhat, inv_std, correction), dgain, dbias

    return batchnorm_backward


def batchnorm_dx(dxhat, xhat, inv_std, n, dof):
    """With n for the mean's count and dof for the variance's."""
    return inv_std * (dxhat - dxhat.sum(0) / n - xhat * (dxhat * xhat).sum(0) / dof)


def batchnorm_in_one_expression(dxhat, xhat, inv_std, correction):
    n = len(xhat)
    bracket = n * dxhat - dxhat.sum(0) - n * xhat * (dxhat * xhat).sum(0) / (n - correction)
    return inv_std * bracket / n


def batchnorm_step_by_step(dout, x, gain, bias, inv_std, *, correction):
    """As the lecture's atomic backward: one line for each of the forward's steps."""
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


def batchnorm_of_maps_by(count):
    """The backward that divides by ``count(x̂)``."""

    def batchnorm_of_maps_backward(dout: Tensor, xhat: Tensor, inv_std: Tensor) -> Tensor:
        n = count(xhat)
        centre = dout.sum((0, 2), keepdim=True) / n
        along = xhat * (dout * xhat).sum((0, 2), keepdim=True) / n
        return inv_std * (dout - centre - along)

    return batchnorm_of_maps_backward


def batchnorm_by_mode_always_training(dout: Tensor, xhat: Tensor, inv_std: Tensor) -> Tensor:
    return inv_std * (dout - dout.mean(0) - xhat * (dout * xhat).mean(0))


def batchnorm_in_either_mode(
    dout: Tensor, xhat: Tensor, inv_std: Tensor, *, training: bool
) -> Tensor:
    if training:
        return batchnorm_by_mode_always_training(dout, xhat, inv_std)
    return dout * inv_std


def groupnorm_in_groups(dout: Tensor, gain: Tensor, xhat: Tensor, inv_std: Tensor, *, groups: int):
    n, c, length = dout.shape
    rows = (n, groups, c // groups * length)
    dxhat = torch.einsum("ncl,c->ncl", dout, gain).reshape(rows)
    dx = layernorm_dx(dxhat, xhat.reshape(rows), inv_std.reshape(n, groups, 1))
    dgain = torch.einsum("ncl,ncl->c", dout, xhat)
    return dx.reshape(dout.shape), sum_to(dgain, gain.shape)


def groupnorm_of_one_group(dout: Tensor, gain: Tensor, xhat: Tensor, inv_std: Tensor):
    dxhat = dout * gain[:, None]
    centre = dxhat.mean((1, 2), keepdim=True)
    along = xhat * (dxhat * xhat).mean((1, 2), keepdim=True)
    scale = inv_std.reshape(len(dout), -1).repeat_interleave(dout.shape[1] // inv_std.shape[1], 1)
    return scale[:, :, None] * (dxhat - centre - along), (dout * xhat).sum((0, 2))


def groupnorm_viewed(dout: Tensor, gain: Tensor, xhat: Tensor, inv_std: Tensor, *, groups: int):
    """``view`` for ``reshape``, which an upstream in another layout does not allow."""
    dxhat = (dout.view(len(dout), -1) * gain.repeat_interleave(dout.shape[2])).view(
        len(dout), groups, -1
    )
    dx = layernorm_dx(dxhat, xhat.view(dxhat.shape), inv_std.view(len(dout), groups, 1))
    return dx.view(dout.shape), (dout * xhat).sum((0, 2))


def instancenorm_over_batch(dout: Tensor, x: Tensor, out: Tensor, *, eps: float) -> Tensor:
    inv_std = (x.var(2, correction=0, keepdim=True) + eps).rsqrt()
    centre = dout.mean((0, 2), keepdim=True)
    return inv_std * (dout - centre - out * (dout * out).mean((0, 2), keepdim=True))


def instancenorm_as_rows(dout: Tensor, x: Tensor, out: Tensor, *, eps: float) -> Tensor:
    inv_std = (x.var(2, correction=0, keepdim=True) + eps).rsqrt()
    return layernorm_dx(dout, out, inv_std)


def rmsnorm_by(dx):
    """The backward whose dx is ``dx(dout, x, gain, inv_rms)``; dgain is right."""

    def rmsnorm_backward(dout, x, gain, inv_rms):
        return dx(dout, x, gain, inv_rms), sum_to(dout * x * inv_rms, gain.shape)

    return rmsnorm_backward


def rmsnorm_dx(dout: Tensor, x: Tensor, gain: Tensor, inv_rms: Tensor) -> Tensor:
    dxhat, xhat = dout * gain, x * inv_rms
    return inv_rms * (dxhat - xhat * mean(dxhat * xhat))


def rmsnorm_without_eps(dout: Tensor, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    inv_rms = mean(x * x).rsqrt()
    return rmsnorm_dx(dout, x, gain, inv_rms), sum_to(dout * x * inv_rms, gain.shape)


def rmsnorm_of_float32(dout, x, gain, *, eps):
    """As the forward: in float32 what it has in float32, the gain in the dtype of x."""
    wide = x.float()
    inv_rms = (mean(wide * wide) + eps).rsqrt()
    xhat = wide * inv_rms
    dxhat = (dout * gain).to(x.dtype).float()
    dx = inv_rms * (dxhat - xhat * mean(dxhat * xhat))
    return dx.to(x.dtype), sum_to(dout * xhat.to(x.dtype), gain.shape)


def unit_vector_projected(dout: Tensor, x: Tensor, *, eps: float) -> Tensor:
    """The projection for short vectors too, which the clamp takes as they are."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    direction = x / size.clamp(min=1e-30)
    along = direction * (dout * direction).sum(-1, keepdim=True)
    return (dout - along) / size.clamp(min=eps)


def unit_vector_short_ones_apart(dout: Tensor, x: Tensor, out: Tensor, *, eps: float) -> Tensor:
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    along = torch.where(size > eps, out * (dout * out).sum(-1, keepdim=True), 0)
    return (dout - along) / size.clamp(min=eps)


def smooth_unit_vector_without_eps(dout: Tensor, x: Tensor) -> Tensor:
    size = (x * x).sum(-1, keepdim=True).sqrt()
    direction = x / size
    return (dout - direction * (dout * direction).sum(-1, keepdim=True)) / size


def smooth_unit_vector_in_two_terms(dout: Tensor, x: Tensor, *, eps: float) -> Tensor:
    size = (torch.linalg.vecdot(x, x).unsqueeze(-1) + eps).sqrt()
    unit = x / size
    return dout / size - unit * ((dout * unit).sum(-1, keepdim=True) / size)


def weightnorm_by(dv):
    """The backward whose dv is ``dv(dout, u, size, g)``, u the unit rows; dg is right."""

    def weightnorm_backward(dout: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        size = torch.linalg.vector_norm(v, dim=1, keepdim=True)
        unit = v / size
        dg = sum_to((dout * unit).sum(1), g.shape)
        return sum_to(dv(dout, unit, size, g[:, None]), v.shape), dg

    return weightnorm_backward


def across(dout: Tensor, unit: Tensor) -> Tensor:
    """The part of dout at right angles to the unit rows."""
    return dout - unit * (dout * unit).sum(-1, keepdim=True)


def weightnorm_of_the_whole(dout: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    size = torch.linalg.vector_norm(v)
    unit = v / size
    dv = g[:, None] / size * (dout - unit * (dout * unit).sum())
    return dv, (dout * unit).sum(1)


def cosine_unguarded(dout: Tensor, x: Tensor, y: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    a = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    b = y / torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    d, c = dout.unsqueeze(-1), out.unsqueeze(-1)
    dx = d * (b - c * a) / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    dy = d * (a - c * b) / torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    return dx, dy


def cosine_by(dx):
    """The backward with ``dx(dout, a, b, size)`` for x, and the same for y; a, b clamped units."""

    def cosine_backward(dout, x, y, *, eps):
        size_x = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        size_y = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
        a, b, d = x / size_x.clamp(min=eps), y / size_y.clamp(min=eps), dout.unsqueeze(-1)
        dx_, dy_ = dx(d, a, b, size_x, eps), dx(d, b, a, size_y, eps)
        return sum_to(dx_, x.shape), sum_to(dy_, y.shape)

    return cosine_backward


def cosine_dx(dout: Tensor, a: Tensor, b: Tensor, size: Tensor, eps: float) -> Tensor:
    along = torch.where(size > eps, a * (a * b).sum(-1, keepdim=True), 0)
    return dout * (b - along) / size.clamp(min=eps)


def softmax_by_jacobian(dout: Tensor, out: Tensor, *, dim: int) -> Tensor:
    """diag(y) - y yᵀ, written out."""
    y, d = out.movedim(dim, -1), dout.movedim(dim, -1)
    jacobian = torch.diag_embed(y) - y.unsqueeze(-1) * y.unsqueeze(-2)
    return (jacobian @ d.unsqueeze(-1)).squeeze(-1).movedim(-1, dim)


def softmax_in_two_products(dout: Tensor, out: Tensor, *, dim: int) -> Tensor:
    product = dout * out
    return product - out * product.sum(dim, keepdim=True)


def softmax_again(dout: Tensor, x: Tensor, *, dim: int) -> Tensor:
    y = x.softmax(dim)
    return y * (dout - (y * dout).sum(dim, keepdim=True))


def masked_softmax_again(dout: Tensor, x: Tensor, *, mask: Tensor) -> Tensor:
    """With -inf where the mask is false: nan in a row that has nothing else."""
    y = x.masked_fill(~mask, -math.inf).softmax(-1)
    return y * (dout - (dout * y).sum(-1, keepdim=True))


def exponentials_unshifted(dout: Tensor, x: Tensor) -> Tensor:
    y = x.exp() / x.exp().sum(-1, keepdim=True)
    return dout - y * dout.sum(-1, keepdim=True)


def learned_temperature_by(sign):
    """The backward whose dtemperature has this sign."""

    def softmax_of_learned_temperature_backward(dout, x, temperature, out):
        dscaled = out * (dout - (dout * out).sum(-1, keepdim=True))
        dtemperature = sign * dscaled * (x / temperature) / temperature
        return sum_to(dscaled / temperature, x.shape), sum_to(dtemperature, temperature.shape)

    return softmax_of_learned_temperature_backward


def softmax_transposed(dout: Tensor, out: Tensor) -> Tensor:
    """Computed along the last dimension, and returned as a view."""
    d, y = dout.movedim(0, -1), out.movedim(0, -1)
    return (y * (d - (d * y).sum(-1, keepdim=True))).movedim(-1, 0)


LAYERNORM = layernorm_by(layernorm_dx)
RUNNING = {"mean": draw(4, seed=3), "var": draw(4, seed=4).abs() + 0.5}

WRONG: dict[str, Wrong] = {
    "layernorm: the mean taken for a constant": Wrong(
        layernorm,
        layernorm_by(lambda dxhat, xhat, inv_std: inv_std * (dxhat - xhat * mean(dxhat * xhat))),
        (draw(4, 6), draw(6, seed=1), draw(6, seed=2)),
        {},
        10,
        "missing-mean-term",
    ),
    "layernorm: the deviation taken for a constant": Wrong(
        layernorm,
        layernorm_by(lambda dxhat, xhat, inv_std: inv_std * (dxhat - mean(dxhat))),
        (draw(4, 6), draw(6, seed=1), draw(6, seed=2)),
        {},
        10,
        ("missing-term", "missing-mean-term"),
    ),
    "layernorm: n - 1 in the last term": Wrong(
        layernorm,
        layernorm_by(
            lambda dxhat, xhat, inv_std: (
                inv_std
                * (
                    dxhat
                    - mean(dxhat)
                    - xhat * (dxhat * xhat).sum(-1, keepdim=True) / (xhat.shape[-1] - 1)
                )
            )
        ),
        (draw(4, 6), draw(6, seed=1), draw(6, seed=2)),
        {},
        11,
        "bessel",
    ),
    "layernorm: scaled by 1 / inv_std": Wrong(
        layernorm,
        layernorm_by(
            lambda dxhat, xhat, inv_std: (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)) / inv_std
        ),
        (draw(4, 6), draw(6, seed=1), draw(6, seed=2)),
        {},
        11,
        "factor",
    ),
    "layernorm: the gain applied after the means": Wrong(
        layernorm,  # a gain as it is before training hides it
        layernorm_gain_last,
        (draw(4, 6), ones(6), draw(6, seed=2)),
        {},
        10,
        ("missing-mean-term", "missing-term", "factor"),
    ),
    "layernorm: the gain forgotten": Wrong(
        layernorm,
        layernorm_gain_forgotten,
        (draw(4, 6), ones(6), draw(6, seed=2)),
        {},
        20,
        ("missing-term", "factor"),
    ),
    "layernorm: the first row's gradient for gain and bias": Wrong(
        layernorm,
        layernorm_first_row,
        (draw(1, 6), draw(6, seed=1), draw(6, seed=2)),
        {},
        5,
        ("missing-reduction", "ignored-rows", "upstream-collapsed", "size-one"),
    ),
    "standardized rows: eps left out": Wrong(
        standardize_rows,
        standardize_rows_by(lambda x, eps: x.var(-1, correction=0, keepdim=True).rsqrt()),
        (draw(4, 6, dtype=torch.float32) * 30,),
        {},
        11,
        ("eps", "nan"),
    ),
    "standardized rows: eps outside the root": Wrong(
        standardize_rows,
        standardize_rows_by(lambda x, eps: 1 / (x.std(-1, correction=0, keepdim=True) + eps)),
        (draw(4, 6),),
        {},
        11,
        "eps",
    ),
    "standardized rows: the variance as a difference of squares": Wrong(
        standardize_rows,  # which cancels where the mean is large
        standardize_rows_by(lambda x, eps: (mean(x * x) - mean(x) ** 2 + eps).rsqrt()),
        (draw(4, 6),),
        {},
        23,
        ("cancellation", "nan"),
    ),
    "standardized by the std: 0 / 0 where a row is constant": Wrong(
        standardize_by_std, standardize_by_std_unguarded, (draw(4, 6),), {}, 8, "nan"
    ),
    "scaled to a range: its ends taken for constants": Wrong(
        scale_to_range,
        scale_to_range_by_constants,
        (draw(4, 6),),
        {},
        10,
        ("missing-term", "missing-mean-term"),
    ),
    "demeaned: the upstream as it comes": Wrong(
        demean, lambda dout: dout.clone(), (draw(4, 6),), {}, 10, "missing-mean-term"
    ),
    "batchnorm: n for n - correction in the last term": Wrong(
        batchnorm,
        batchnorm_by(
            lambda dxhat, xhat, inv_std, correction: batchnorm_dx(
                dxhat, xhat, inv_std, len(xhat), len(xhat)
            )
        ),
        (draw(8, 3), draw(3, seed=1), draw(3, seed=2)),
        {},
        11,
        "bessel",
    ),
    "batchnorm: n - 1 whatever the correction": Wrong(
        batchnorm,
        batchnorm_by(
            lambda dxhat, xhat, inv_std, correction: batchnorm_dx(
                dxhat, xhat, inv_std, len(xhat), len(xhat) - 1
            )
        ),
        (draw(8, 3), draw(3, seed=1), draw(3, seed=2)),
        {},
        11,
        ("option-ignored", "bessel"),
    ),
    "batchnorm: a batch of eight": Wrong(
        batchnorm,
        batchnorm_by(
            lambda dxhat, xhat, inv_std, correction: batchnorm_dx(
                dxhat, xhat, inv_std, 8, 8 - correction
            )
        ),
        (draw(8, 3), draw(3, seed=1), draw(3, seed=2)),
        {},
        1,
        ("hard-coded-size", "wrong-count"),
    ),
    "batchnorm: the columns counted for the rows": Wrong(
        batchnorm,
        batchnorm_by(
            lambda dxhat, xhat, inv_std, correction: batchnorm_dx(
                dxhat, xhat, inv_std, xhat.shape[1], xhat.shape[1] - correction
            )
        ),
        (draw(5, 5), draw(5, seed=1), draw(5, seed=2)),
        {},
        1,
        "wrong-count",
    ),
    "batchnorm: the statistics taken for constants": Wrong(
        batchnorm,
        batchnorm_by(lambda dxhat, xhat, inv_std, correction: dxhat * inv_std),
        (draw(8, 3), draw(3, seed=1), draw(3, seed=2)),
        {},
        10,
        ("missing-mean-term", "missing-term"),
    ),
    "batchnorm: means over the columns": Wrong(
        batchnorm,
        batchnorm_by(lambda dxhat, xhat, inv_std, correction: layernorm_dx(dxhat, xhat, inv_std)),
        (draw(5, 5), draw(5, seed=1), draw(5, seed=2)),
        {"correction": 0},
        5,
        ("wrong-axis", "transposed"),
    ),
    "batchnorm of maps: the batch counted, not the positions": Wrong(
        batchnorm_of_maps,
        batchnorm_of_maps_by(lambda xhat: xhat.shape[0]),
        (draw(8, 3, 1),),
        {},
        1,
        "wrong-count",
    ),
    "batchnorm by mode: as in training, always": Wrong(
        batchnorm_by_mode,
        batchnorm_by_mode_always_training,
        (draw(6, 4),),
        RUNNING,
        10,
        "option-ignored",
    ),
    "groupnorm: means over all channels": Wrong(
        groupnorm,
        groupnorm_of_one_group,
        (draw(2, 4, 3), draw(4, seed=1)),
        {"groups": 1},
        5,
        ("wrong-axis", "option-ignored", "wrong-count"),
    ),
    "groupnorm: views of the upstream": Wrong(
        groupnorm,
        groupnorm_viewed,
        (draw(2, 4, 3), draw(4, seed=1)),
        {"groups": 2},
        3,
        "upstream-layout",
    ),
    "instancenorm: means over the batch too": Wrong(
        instancenorm, instancenorm_over_batch, (draw(1, 3, 5),), {}, 10, "wrong-axis"
    ),
    "rmsnorm: the size taken for a constant": Wrong(
        rmsnorm,
        rmsnorm_by(lambda dout, x, gain, inv_rms: dout * gain * inv_rms),
        (draw(4, 6), draw(6, seed=1)),
        {},
        10,
        "missing-term",
    ),
    "rmsnorm: centred, as a layernorm": Wrong(
        rmsnorm,
        rmsnorm_by(
            lambda dout, x, gain, inv_rms: (
                rmsnorm_dx(dout, x, gain, inv_rms) - inv_rms * mean(dout * gain)
            )
        ),
        (draw(4, 6), draw(6, seed=1)),
        {},
        20,
        ("missing-mean-term", "missing-term"),
    ),
    "rmsnorm: the gain missing from the projection": Wrong(
        rmsnorm,
        rmsnorm_by(
            lambda dout, x, gain, inv_rms: (
                inv_rms * (dout * gain - x * inv_rms * mean(dout * x * inv_rms))
            )
        ),
        (draw(4, 6), ones(6)),
        {},
        10,
        ("missing-term", "factor"),
    ),
    "rmsnorm: the gain's square in the projection": Wrong(
        rmsnorm,  # the output for the normalized x
        lambda dout, x, gain, inv_rms, out: (
            inv_rms * (dout * gain - out * mean(dout * out)),
            sum_to(dout * x * inv_rms, gain.shape),
        ),
        (draw(4, 6), ones(6)),
        {},
        20,
        ("factor", "missing-term"),
    ),
    "rmsnorm: the gain's gradient from the output": Wrong(
        rmsnorm,
        lambda dout, x, gain, inv_rms, out: (
            rmsnorm_dx(dout, x, gain, inv_rms),
            sum_to(dout * out / gain, gain.shape),
        ),
        (draw(4, 6), draw(6, seed=1)),
        {},
        8,
        "nan",
    ),
    "rmsnorm: eps left out": Wrong(
        rmsnorm,
        rmsnorm_without_eps,
        (draw(4, 6, dtype=torch.float32) * 10, draw(6, seed=1, dtype=torch.float32)),
        {},
        11,
        ("eps", "nan"),
    ),
    "rmsnorm from one: the one forgotten": Wrong(
        rmsnorm_from_one,
        rmsnorm_by(rmsnorm_dx),
        (draw(4, 6), draw(6, seed=1)),
        {},
        20,
        "missing-term",
    ),
    "unit vector: not projected": Wrong(
        unit_vector,
        lambda dout, x, *, eps: (
            dout / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=eps)
        ),
        (draw(4, 6),),
        {},
        10,
        "missing-term",
    ),
    "unit vector: short ones projected too": Wrong(
        unit_vector, unit_vector_projected, (draw(4, 6),), {}, 21, ("eps", "kink")
    ),
    "smooth unit vector: eps left out": Wrong(
        smooth_unit_vector,
        smooth_unit_vector_without_eps,
        (draw(4, 6, dtype=torch.float32),),
        {},
        11,
        ("eps", "nan"),
    ),
    "weightnorm: the ratio of the lengths left out": Wrong(
        weightnorm,  # it is one before training, when g is set to the length of v
        weightnorm_by(lambda dout, unit, size, g: across(dout, unit)),
        (draw(3, 5), torch.linalg.vector_norm(draw(3, 5), dim=1)),
        {},
        20,
        ("factor", "missing-term"),
    ),
    "weightnorm: one length for all rows": Wrong(
        weightnorm, weightnorm_of_the_whole, (draw(1, 5), draw(1, seed=1)), {}, 10, "wrong-axis"
    ),
    "cosine: nothing taken off along x": Wrong(
        cosine,
        cosine_by(lambda dout, a, b, size, eps: dout * b / size.clamp(min=eps)),
        (draw(3, 5), draw(3, 5, seed=1)),
        {},
        10,
        "missing-term",
    ),
    "cosine: x and y exchanged": Wrong(
        cosine,
        lambda dout, x, y, *, eps: cosine_by(cosine_dx)(dout, x, y, eps=eps)[::-1],
        (draw(3, 5), draw(3, 5, seed=1)),
        {},
        19,
        "swapped-inputs",
    ),
    "cosine: 0 / 0 for a zero vector": Wrong(
        cosine, cosine_unguarded, (draw(3, 5), draw(3, 5, seed=1)), {}, 8, ("nan", "eps")
    ),
    "softmax: the diagonal alone": Wrong(
        softmax, lambda dout, out: dout * out * (1 - out), (draw(3, 5),), {}, 10, "missing-term"
    ),
    "softmax: the mean for the sum": Wrong(
        softmax,
        lambda dout, out, *, dim: out * (dout - (dout * out).mean(dim, keepdim=True)),
        (draw(3, 5),),
        {},
        1,
        ("factor", "wrong-count"),
    ),
    "softmax: along the last dimension whatever dim": Wrong(
        softmax,
        lambda dout, out: out * (dout - (dout * out).sum(-1, keepdim=True)),
        (draw(3, 5),),
        {"dim": -1},
        5,
        ("wrong-axis", "option-ignored"),
    ),
    "softmax of columns: sums along the rows": Wrong(
        softmax_of_columns,
        lambda dout, out: out * (dout - (dout * out).sum(1, keepdim=True)),
        (draw(4, 4),),
        {},
        5,
        "wrong-axis",
    ),
    "softmax: without the weights in the sum": Wrong(
        softmax,
        lambda dout, out, *, dim: out * (dout - dout.sum(dim, keepdim=True)),
        (draw(3, 5),),
        {},
        20,
        ("missing-term", "factor"),
    ),
    "tempered softmax: the temperature forgotten": Wrong(
        tempered_softmax,
        lambda dout, out: out * (dout - (dout * out).sum(-1, keepdim=True)),
        (draw(3, 5),),
        {"temperature": 1.0},
        20,
        ("option-ignored", "factor"),
    ),
    "masked softmax: a row with nothing left": Wrong(
        masked_softmax,
        masked_softmax_again,
        (draw(3, 4),),
        {"mask": tensor([[True, False, True, True], [True] * 4, [False, True, True, False]])},
        14,
        "nan",
    ),
    "log softmax: the upstream taken to sum to one": Wrong(
        log_softmax,
        lambda dout, out: dout - out.exp(),
        (draw(3, 5),),
        {},
        2,
        ("upstream-ignored", "upstream-collapsed", "missing-term"),
    ),
    "log softmax: the sum of the whole upstream": Wrong(
        log_softmax,
        lambda dout, out: dout - out.exp() * dout.sum(),
        (draw(1, 5),),
        {},
        2,
        ("upstream-collapsed", "wrong-axis"),
    ),
    "log softmax: exponentials of x itself": Wrong(
        log_softmax, exponentials_unshifted, (draw(3, 5),), {}, 23, ("overflow", "nan")
    ),
    "log softmax: the log's gradient of the softmax's": Wrong(
        log_softmax,  # 1 / y is inf where y underflows
        lambda dout, out: (
            out.exp() * (dout / out.exp() - (dout / out.exp() * out.exp()).sum(-1, keepdim=True))
        ),
        (draw(3, 5),),
        {},
        23,
        ("nan", "overflow"),
    ),
    "tempered log softmax: the temperature's square": Wrong(
        tempered_log_softmax,
        lambda dout, out, *, temperature: (
            (dout - out.exp() * dout.sum(-1, keepdim=True)) / temperature**2
        ),
        (draw(3, 5),),
        {},
        20,
        ("factor", "option-ignored"),
    ),
    "learned temperature: the sign of its gradient": Wrong(
        softmax_of_learned_temperature,
        learned_temperature_by(1),
        (draw(3, 5), tensor(1.5, dtype=torch.float64)),
        {},
        20,
        "sign",
    ),
}


RIGHT: dict[str, Right] = {
    "layernorm: the whole Jacobian": Right(
        layernorm,
        layernorm_by(layernorm_by_jacobian),
        (draw(4, 6), draw(6, seed=1), draw(6, seed=2)),
        {},
    ),
    "layernorm: centred last": Right(
        layernorm,
        layernorm_by(layernorm_centred_last),
        (draw(2, 3, 5), draw(5, seed=1), draw(5, seed=2)),
        {},
    ),
    "layernorm: without a bias": Right(
        layernorm, LAYERNORM, (draw(4, 6), draw(6, seed=1), None), {}
    ),
    "standardized rows: everything again from x": Right(
        standardize_rows,
        standardize_rows_by(lambda x, eps: (mean((x - mean(x)) ** 2) + eps) ** -0.5),
        (draw(4, 6),),
        {},
    ),
    "scaled to a range: ties to the first": Right(
        scale_to_range, scale_to_range_ties_to_first, (draw(4, 6),), {}
    ),
    "demeaned: centred twice": Right(
        demean,
        lambda dout: dout - mean(dout) - mean(dout - mean(dout)),
        (draw(4, 6),),
        {},
    ),
    "batchnorm: in one expression": Right(
        batchnorm,
        batchnorm_by(batchnorm_in_one_expression),
        (draw(8, 3), draw(3, seed=1), draw(3, seed=2)),
        {},
    ),
    "batchnorm: step by step": Right(
        batchnorm,
        batchnorm_step_by_step,
        (draw(8, 3), draw(1, 3, seed=1), draw(1, 3, seed=2)),
        {"correction": 0},
    ),
    "batchnorm of maps: counted by the elements of a channel": Right(
        batchnorm_of_maps,
        batchnorm_of_maps_by(lambda xhat: xhat.shape[0] * xhat.shape[2]),
        (draw(3, 2, 4),),
        {},
    ),
    "batchnorm by mode: either": Right(
        batchnorm_by_mode, batchnorm_in_either_mode, (draw(6, 4),), {**RUNNING, "training": False}
    ),
    "groupnorm: the groups as rows": Right(
        groupnorm, groupnorm_in_groups, (draw(2, 4, 3), draw(4, seed=1)), {"groups": 2}
    ),
    "instancenorm: as a layernorm of rows": Right(
        instancenorm, instancenorm_as_rows, (draw(2, 3, 5),), {}
    ),
    "rmsnorm: from the kept scale": Right(
        rmsnorm, rmsnorm_by(rmsnorm_dx), (draw(4, 6), draw(6, seed=1)), {}
    ),
    "rmsnorm from one: one added to the gain": Right(
        rmsnorm_from_one,
        rmsnorm_by(
            lambda dout, x, gain, inv_rms: rmsnorm_dx(dout + dout * gain, x, ones(1).to(x), inv_rms)
        ),
        (draw(4, 6), draw(6, seed=1)),
        {},
    ),
    "rmsnorm: in float32 inside, as its forward": Right(
        rmsnorm_in_float32,
        rmsnorm_of_float32,
        (draw(4, 6, dtype=torch.float32), draw(6, seed=1, dtype=torch.float32)),
        {},
    ),
    "unit vector: short ones apart": Right(
        unit_vector, unit_vector_short_ones_apart, (draw(4, 6),), {}
    ),
    "smooth unit vector: in two terms": Right(
        smooth_unit_vector, smooth_unit_vector_in_two_terms, (draw(4, 6),), {}
    ),
    "weightnorm: across the unit rows": Right(
        weightnorm,
        weightnorm_by(lambda dout, unit, size, g: g / size * across(dout, unit)),
        (draw(3, 5), draw(3, seed=1)),
        {},
    ),
    "cosine: through the unit vectors": Right(
        cosine, cosine_by(cosine_dx), (draw(3, 5), draw(3, 5, seed=1)), {}
    ),
    "softmax: the whole Jacobian": Right(softmax, softmax_by_jacobian, (draw(3, 5),), {}),
    "softmax: in two products": Right(softmax, softmax_in_two_products, (draw(3, 5),), {"dim": 0}),
    "softmax: from x again": Right(softmax, softmax_again, (draw(3, 5),), {}),
    "softmax of columns: a transposed view": Right(
        softmax_of_columns, softmax_transposed, (draw(3, 5),), {}
    ),
    "masked softmax: from the output": Right(
        masked_softmax,
        lambda dout, x, out: sum_to(out * (dout - (dout * out).sum(-1, keepdim=True)), x.shape),
        (draw(3, 4),),
        {"mask": draw(3, 4, seed=1) > -0.5},
    ),
    "log softmax: from the output": Right(
        log_softmax,
        lambda dout, out: torch.addcmul(dout, out.exp(), dout.sum(-1, keepdim=True), value=-1),
        (draw(3, 5),),
        {},
    ),
    "tempered softmax: scaled before the sum": Right(
        tempered_softmax,
        lambda dout, out, *, temperature: softmax_in_two_products(dout / temperature, out, dim=-1),
        (draw(3, 5),),
        {"temperature": 2.0},
    ),
    "learned temperature: two gradients from one product": Right(
        softmax_of_learned_temperature,
        learned_temperature_by(-1),
        (draw(3, 5), tensor(1.5, dtype=torch.float64)),
        {},
    ),
}
