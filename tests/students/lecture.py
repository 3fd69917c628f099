"""Forty mistakes of students in twelve backwards of the lecture "Becoming a Backprop Ninja".

The forwards are in the order of the network: exercise 1 line by line, then the fused formulas of
exercises 2 and 3. Below each stand its right backward and three or four wrong ones. Every entry has
a sample of its own, as a course gives it; some mistakes don't show on it, and say so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch import Tensor

from backprop_ops import Kept


class Right(NamedTuple):
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]


class Mistake(NamedTuple):
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]
    mistake: str  # what the student did
    keys: tuple[str, ...]  # the mistake keys that would be a fair name; empty if none fits


RIGHT: dict[str, Right] = {}
MISTAKES: dict[str, Mistake] = {}

_generator = torch.Generator().manual_seed(2147483647)


def right(forward, *args, **options):
    def enter(backward):
        assert forward.__name__ not in RIGHT
        RIGHT[forward.__name__] = Right(forward, backward, args, options)
        return backward

    return enter


def student(forward, *args, mistake, keys=(), **options):
    def enter(backward):
        assert backward.__name__ not in MISTAKES
        MISTAKES[backward.__name__] = Mistake(forward, backward, args, options, mistake, keys)
        return backward

    return enter


def randn(*shape):
    return torch.randn(shape, generator=_generator)


def randint(high, *shape):
    return torch.randint(high, shape, generator=_generator)


# emb = C[Xb]


def embedding(C, Xb):
    return C[Xb]


@right(embedding, randn(6, 2), randint(6, 4, 3))
def embedding_backward(dout, C, Xb):
    dC = torch.zeros_like(C)
    dC.index_put_((Xb,), dout, accumulate=True)
    return dC


@student(
    embedding,
    randn(6, 2),
    randint(6, 4, 3),
    mistake="Wrote = for += in the loop, so that of a repeated character only the last use counts.",
    keys=("repeated-index",),
)
def embedding_assigns(dout, C, Xb):
    dC = torch.zeros_like(C)
    for k in range(Xb.shape[0]):
        for j in range(Xb.shape[1]):
            ix = Xb[k, j]
            dC[ix] = dout[k, j]
    return dC


@student(
    embedding,
    randn(8, 3),
    randint(8, 5, 3),
    mistake="Ended the loop over the batch one too early: the last example is left out.",
    keys=("off-by-one", "ignored-rows"),
)
def embedding_stops_early(dout, C, Xb):
    dC = torch.zeros_like(C)
    for k in range(Xb.shape[0] - 1):
        for j in range(Xb.shape[1]):
            ix = Xb[k, j]
            dC[ix] += dout[k, j]
    return dC


@student(
    embedding,
    randn(5, 4),
    randint(5, 6, 3),
    mistake="Flattened the upstream with view, which is right on contiguous upstreams and raises "
    "an error on others.",
    keys=("upstream-layout",),
)
def embedding_views_upstream(dout, C, Xb):
    dC = torch.zeros_like(C)
    dC.index_add_(0, Xb.reshape(-1), dout.view(-1, C.shape[1]))
    return dC


# hprebn = embcat @ W1 + b1, logits = h @ W2 + b2


def linear(x, w, b):
    return x @ w + b


@right(linear, randn(4, 3), randn(3, 5), randn(5))
def linear_backward(dout, x, w):
    dx = dout @ w.T
    dw = x.T @ dout
    db = dout.sum(0)
    return dx, dw, db


@student(
    linear,
    randn(4, 3),
    randn(3, 3),
    randn(3),
    mistake="Forgot to transpose w in dx; as w is square here, the shapes fit all the same.",
    keys=("transposed",),
)
def linear_w_not_transposed(dout, x, w):
    dx = dout @ w
    dw = x.T @ dout
    db = dout.sum(0)
    return dx, dw, db


@student(
    linear,
    randn(4, 3),
    randn(3, 4),
    randn(4),
    mistake="Summed the gradient of the bias over the features and not over the batch; with as "
    "many features as examples the shape fits.",
    keys=("wrong-axis",),
)
def linear_bias_sums_features(dout, x, w):
    dx = dout @ w.T
    dw = x.T @ dout
    db = dout.sum(1)
    return dx, dw, db


@student(
    linear,
    randn(5, 4),
    randn(4, 3),
    randn(3),
    mistake="Kept the summed dimension, so that db is (1, 3) where the bias is (3); the values are "
    "right, and the lecture's cmp lets them pass.",
    keys=("shape",),
)
def linear_bias_keeps_dimension(dout, x, w):
    dx = dout @ w.T
    dw = x.T @ dout
    db = dout.sum(0, keepdim=True)
    return dx, dw, db


@student(
    linear,
    randn(6, 3),
    randn(3, 4),
    randn(4),
    mistake="Averaged the weight's gradient over the batch, though the 1/n of the loss is in the "
    "upstream already.",
    keys=("factor", "wrong-count"),
)
def linear_averages_weight(dout, x, w):
    n = x.shape[0]
    dx = dout @ w.T
    dw = x.T @ dout / n
    db = dout.sum(0)
    return dx, dw, db


# bnmeani, bndiff, bndiff2 and bnvar = 1/(n-1) * bndiff2.sum(0, keepdim=True)


def variance(hprebn):
    n = hprebn.shape[0]
    bnmeani = 1 / n * hprebn.sum(0, keepdim=True)
    bndiff = hprebn - bnmeani
    bndiff2 = bndiff**2
    return 1 / (n - 1) * bndiff2.sum(0, keepdim=True)


@right(variance, randn(5, 3))
def variance_backward(dout, hprebn):
    n = hprebn.shape[0]
    bndiff = hprebn - hprebn.mean(0, keepdim=True)
    # What comes back through the mean is zero: the deviations of a column add up to nothing.
    return 2 / (n - 1) * bndiff * dout


@student(
    variance,
    randn(6, 3),
    mistake="Divided by n, though the forward divides by n - 1.",
    keys=("bessel", "wrong-count"),
)
def variance_divides_by_n(dout, hprebn):
    n = hprebn.shape[0]
    bndiff = hprebn - hprebn.mean(0, keepdim=True)
    return 2 / n * bndiff * dout


@student(
    variance,
    randn(4, 5),
    mistake="Forgot the 2 that comes down from the square.",
    keys=("factor",),
)
def variance_forgets_two(dout, hprebn):
    n = hprebn.shape[0]
    bndiff = hprebn - hprebn.mean(0, keepdim=True)
    return 1 / (n - 1) * bndiff * dout


@student(
    variance,
    randn(5, 2),
    mistake="Took hprebn itself for its deviation from the mean.",
    keys=("missing-mean-term",),
)
def variance_forgets_mean(dout, hprebn):
    n = hprebn.shape[0]
    return 2 / (n - 1) * hprebn * dout


# h = torch.tanh(hpreact)


def tanh(x):
    return torch.tanh(x)


@right(tanh, randn(4, 3))
def tanh_backward(dout, out):
    return (1.0 - out**2) * dout


@student(
    tanh,
    randn(4, 3),
    mistake="Squared the input where the derivative has the square of the output.",
)
def tanh_squares_input(dout, x):
    return (1.0 - x**2) * dout


@student(
    tanh,
    randn(5, 4),
    mistake="Left out the brackets, so that the upstream multiplies the 1 alone and not out**2.",
)
def tanh_without_brackets(dout, out):
    return dout * 1.0 - out**2


@student(
    tanh,
    randn(3, 6),
    mistake="Forgot the square: 1 - out for 1 - out**2.",
)
def tanh_forgets_square(dout, out):
    return (1.0 - out) * dout


# norm_logits = logits - logits.max(1, keepdim=True).values


def subtract_max(logits):
    logit_maxes = logits.max(1, keepdim=True).values
    return logits - logit_maxes


@right(subtract_max, randn(4, 5))
def subtract_max_backward(dout, logits):
    dlogits = dout.clone()
    dlogit_maxes = -dout.sum(1)
    dlogits[range(logits.shape[0]), logits.max(1).indices] += dlogit_maxes
    return dlogits


@student(
    subtract_max,
    randn(4, 5),
    mistake="Took the maximum for a constant, as it doesn't change the loss, and left out what "
    "comes back through it.",
    keys=("missing-term",),
)
def subtract_max_takes_constant(dout):
    return dout.clone()


@student(
    subtract_max,
    randn(3, 4),
    mistake="Gave the gradient of the row's maximum to every class of the row: the one-hot of the "
    "maximum is left out.",
)
def subtract_max_to_every_class(dout):
    dlogit_maxes = -dout.sum(1, keepdim=True)
    return dout + dlogit_maxes


@student(
    subtract_max,
    randn(5, 3),
    mistake="Forgot the clone and added the second part into the upstream; the gradient is right, "
    "but dnorm_logits is another one afterwards.",
    keys=("mutates-upstream", "aliased"),
)
def subtract_max_without_clone(dout, logits):
    dlogits = dout
    dlogit_maxes = -dout.sum(1, keepdim=True)
    dlogits += F.one_hot(logits.max(1).indices, num_classes=logits.shape[1]) * dlogit_maxes
    return dlogits


# counts = norm_logits.exp()


def exp(x):
    return x.exp()


@right(exp, randn(4, 5))
def exp_backward(dout, out):
    return out * dout


@student(
    exp,
    randn(4, 5),
    mistake="Knew that exp is in its own derivative, but multiplied by its input and not by its "
    "output.",
)
def exp_takes_input(dout, x):
    return x * dout


@student(
    exp,
    randn(3, 4),
    mistake="Used the rule of powers, x * e**(x - 1), as if the base were the variable.",
)
def exp_as_power(dout, x):
    return x * (x - 1).exp() * dout


@student(
    exp,
    randn(5, 3),
    mistake="Added the upstream to the local derivative and didn't multiply by it.",
)
def exp_adds_upstream(dout, out):
    return out + dout


# counts_sum_inv = counts.sum(1, keepdims=True)**-1


def inverse_sum(counts):
    counts_sum = counts.sum(1, keepdim=True)
    return counts_sum**-1


@right(inverse_sum, randn(4, 5).exp())
def inverse_sum_backward(dout, counts):
    counts_sum = counts.sum(1, keepdim=True)
    dcounts_sum = -(counts_sum**-2) * dout
    return torch.ones_like(counts) * dcounts_sum


@student(
    inverse_sum,
    randn(4, 5).exp(),
    mistake="Forgot the minus sign of the derivative of x**-1.",
    keys=("sign",),
)
def inverse_sum_forgets_minus(dout, counts):
    counts_sum = counts.sum(1, keepdim=True)
    dcounts_sum = counts_sum**-2 * dout
    return torch.ones_like(counts) * dcounts_sum


@student(
    inverse_sum,
    randn(3, 4).exp(),
    mistake="Stopped at the gradient of the sum, (3, 1), and left out the step from the sum to the "
    "counts.",
    keys=("shape",),
)
def inverse_sum_stops_at_sum(dout, out):
    return -(out**2) * dout


@student(
    inverse_sum,
    randn(5, 3).exp(),
    mistake="Put the counts into the derivative of x**-1, where their sum belongs.",
)
def inverse_sum_inverts_counts(dout, counts):
    return -(counts**-2) * dout


# probs = counts * counts_sum_inv


def normalize(counts, counts_sum_inv):
    return counts * counts_sum_inv


@right(normalize, randn(4, 5).exp(), randn(4, 1).exp())
def normalize_backward(dout, counts, counts_sum_inv):
    dcounts = counts_sum_inv * dout
    dcounts_sum_inv = (counts * dout).sum(1, keepdim=True)
    return dcounts, dcounts_sum_inv


@student(
    normalize,
    randn(4, 5).exp(),
    randn(4, 1).exp(),
    mistake="Didn't see that counts_sum_inv is broadcast over the classes, and didn't sum its "
    "gradient over them.",
    keys=("missing-reduction", "shape"),
)
def normalize_ignores_broadcast(dout, counts, counts_sum_inv):
    dcounts = counts_sum_inv * dout
    dcounts_sum_inv = counts * dout
    return dcounts, dcounts_sum_inv


@student(
    normalize,
    randn(3, 4).exp(),
    randn(3, 1).exp(),
    mistake="Summed without keepdim, so that the gradient is (3) where the input is (3, 1).",
    keys=("shape",),
)
def normalize_without_keepdim(dout, counts, counts_sum_inv):
    dcounts = counts_sum_inv * dout
    dcounts_sum_inv = (counts * dout).sum(1)
    return dcounts, dcounts_sum_inv


@student(
    normalize,
    randn(5, 3).exp(),
    randn(5, 1).exp(),
    mistake="Divided by counts_sum_inv, remembering that the counts are divided by their sum.",
)
def normalize_divides(dout, counts, counts_sum_inv):
    dcounts = dout / counts_sum_inv
    dcounts_sum_inv = (counts * dout).sum(1, keepdim=True)
    return dcounts, dcounts_sum_inv


# logprobs = probs.log()


def log(probs):
    return probs.log()


@right(log, randn(4, 5).softmax(1))
def log_backward(dout, probs):
    return 1.0 / probs * dout


@student(
    log,
    randn(4, 5).softmax(1),
    mistake="Wrote the local derivative and forgot to multiply by the upstream.",
    keys=("upstream-ignored",),
)
def log_forgets_upstream(dout, probs):
    return 1.0 / probs


@student(
    log,
    randn(3, 4).softmax(1),
    mistake="Added an epsilon against division by zero, which the forward doesn't have.",
    keys=("eps",),
)
def log_adds_epsilon(dout, probs):
    return dout / (probs + 1e-5)


@student(
    log,
    randn(5, 3).softmax(1),
    mistake="Inverted probs in place; the gradient is right, but probs are lost afterwards.",
    keys=("mutates-input",),
)
def log_inverts_in_place(dout, probs):
    probs **= -1
    return probs * dout


# loss = -logprobs[range(n), Yb].mean()


def nll(logprobs, Yb):
    n = logprobs.shape[0]
    return -logprobs[range(n), Yb].mean()


@right(nll, randn(4, 5).log_softmax(1), randint(5, 4))
def nll_backward(dout, logprobs, Yb):
    n = logprobs.shape[0]
    dlogprobs = torch.zeros_like(logprobs)
    dlogprobs[range(n), Yb] = -1.0 / n * dout
    return dlogprobs


@student(
    nll,
    randn(4, 5).log_softmax(1),
    randint(5, 4),
    mistake="Forgot the minus of the negative log likelihood.",
    keys=("sign",),
)
def nll_forgets_minus(dout, logprobs, Yb):
    n = logprobs.shape[0]
    dlogprobs = torch.zeros_like(logprobs)
    dlogprobs[range(n), Yb] = 1.0 / n * dout
    return dlogprobs


@student(
    nll,
    randn(6, 4).log_softmax(1),
    randint(4, 6),
    mistake="Divided by the number of all logprobs and not by the number of those picked.",
    keys=("wrong-count", "factor"),
)
def nll_counts_all(dout, logprobs, Yb):
    n = logprobs.shape[0]
    dlogprobs = torch.zeros_like(logprobs)
    dlogprobs[range(n), Yb] = -1.0 / logprobs.numel() * dout
    return dlogprobs


@student(
    nll,
    randn(5, 3).log_softmax(1),
    randint(3, 5),
    mistake="Copied the lecture's line, where the loss is the end and its gradient one: right for "
    "an upstream of one only.",
    keys=("upstream-ignored",),
)
def nll_takes_upstream_for_one(dout, logprobs, Yb):
    n = logprobs.shape[0]
    dlogprobs = torch.zeros_like(logprobs)
    dlogprobs[range(n), Yb] = -1.0 / n
    return dlogprobs


@student(
    nll,
    randn(32, 4).log_softmax(1),
    randint(4, 32),
    mistake="Wrote the lecture's batch size, 32, as a number: right on a batch of 32, as here.",
    keys=("hard-coded-size",),
)
def nll_of_batch_32(dout, logprobs, Yb):
    dlogprobs = torch.zeros_like(logprobs)
    dlogprobs[range(32), Yb] = -dout / 32
    return dlogprobs


# Exercise 2: loss_fast = F.cross_entropy(logits, Yb)


def cross_entropy(logits, Yb):
    return F.cross_entropy(logits, Yb)


@right(cross_entropy, randn(4, 5), randint(5, 4))
def cross_entropy_backward(dout, logits, Yb):
    n = logits.shape[0]
    dlogits = F.softmax(logits, 1)
    dlogits[range(n), Yb] -= 1
    dlogits /= n
    return dlogits * dout


@student(
    cross_entropy,
    randn(4, 5),
    randint(5, 4),
    mistake="Forgot that the loss is a mean: the 1/n is missing.",
    keys=("factor", "wrong-count"),
)
def cross_entropy_forgets_mean(dout, logits, Yb):
    n = logits.shape[0]
    dlogits = F.softmax(logits, 1)
    dlogits[range(n), Yb] -= 1
    return dlogits * dout


@student(
    cross_entropy,
    randn(6, 4),
    randint(4, 6),
    mistake="Divided by n before the 1 of the target was subtracted, so that the 1 isn't divided.",
)
def cross_entropy_divides_too_early(dout, logits, Yb):
    n = logits.shape[0]
    dlogits = F.softmax(logits, 1) / n
    dlogits[range(n), Yb] -= 1
    return dlogits * dout


@student(
    cross_entropy,
    randn(3, 6),
    randint(6, 3),
    mistake="Indexed with : for range(n), and subtracted 1 at every target in every row.",
)
def cross_entropy_in_every_row(dout, logits, Yb):
    n = logits.shape[0]
    dlogits = F.softmax(logits, 1)
    dlogits[:, Yb] -= 1
    dlogits /= n
    return dlogits * dout


@student(
    cross_entropy,
    randn(5, 3),
    randint(3, 5),
    mistake="Wrote the softmax without subtracting the maximum: right for small logits, as here, "
    "while large ones overflow.",
    keys=("overflow", "nan"),
)
def cross_entropy_overflows(dout, logits, Yb):
    n = logits.shape[0]
    counts = logits.exp()
    dlogits = counts / counts.sum(1, keepdim=True)
    dlogits[range(n), Yb] -= 1
    dlogits /= n
    return dlogits * dout


# Exercise 3: hpreact = bngain * (hprebn - bnmeani) / sqrt(bnvar + eps) + bnbias


class BatchNorm(NamedTuple):
    out: Tensor  # hpreact
    bnraw: Kept
    bnvar_inv: Kept


def batchnorm(hprebn, bngain, bnbias, *, eps=1e-5) -> BatchNorm:
    bnmeani = hprebn.mean(0, keepdim=True)
    bnvar = hprebn.var(0, keepdim=True, unbiased=True)
    bnvar_inv = (bnvar + eps) ** -0.5
    bnraw = (hprebn - bnmeani) * bnvar_inv
    return BatchNorm(bngain * bnraw + bnbias, bnraw, bnvar_inv)


@right(batchnorm, randn(6, 3), randn(1, 3) * 0.1 + 1.0, randn(1, 3) * 0.1)
def batchnorm_backward(dout, bngain, bnraw, bnvar_inv):
    n = dout.shape[0]
    dbngain = (bnraw * dout).sum(0, keepdim=True)
    dbnbias = dout.sum(0, keepdim=True)
    bracket = n * dout - dout.sum(0) - n / (n - 1) * bnraw * (dout * bnraw).sum(0)
    dhprebn = bngain * bnvar_inv / n * bracket
    return dhprebn, dbngain, dbnbias


@student(
    batchnorm,
    randn(6, 3),
    randn(1, 3) * 0.1 + 1.0,
    randn(1, 3) * 0.1,
    mistake="Took the formula for a variance divided by n: the factor n / (n - 1) is missing.",
    keys=("bessel",),
)
def batchnorm_of_the_paper(dout, bngain, bnraw, bnvar_inv):
    n = dout.shape[0]
    dbngain = (bnraw * dout).sum(0, keepdim=True)
    dbnbias = dout.sum(0, keepdim=True)
    bracket = n * dout - dout.sum(0) - bnraw * (dout * bnraw).sum(0)
    dhprebn = bngain * bnvar_inv / n * bracket
    return dhprebn, dbngain, dbnbias


@student(
    batchnorm,
    randn(5, 4),
    randn(1, 4) * 0.1 + 1.0,
    randn(1, 4) * 0.1,
    mistake="Forgot what comes back through the mean of the batch.",
    keys=("missing-mean-term", "missing-term"),
)
def batchnorm_forgets_mean(dout, bngain, bnraw, bnvar_inv):
    n = dout.shape[0]
    dbngain = (bnraw * dout).sum(0, keepdim=True)
    dbnbias = dout.sum(0, keepdim=True)
    bracket = n * dout - n / (n - 1) * bnraw * (dout * bnraw).sum(0)
    dhprebn = bngain * bnvar_inv / n * bracket
    return dhprebn, dbngain, dbnbias


@student(
    batchnorm,
    randn(8, 2),
    randn(1, 2) * 0.1 + 1.0,
    randn(1, 2) * 0.1,
    mistake="Went back through bndiff and the mean alone, and took bnvar_inv for a constant.",
    keys=("missing-term",),
)
def batchnorm_takes_variance_for_constant(dout, bngain, bnraw, bnvar_inv):
    dbngain = (bnraw * dout).sum(0, keepdim=True)
    dbnbias = dout.sum(0, keepdim=True)
    dbndiff = bngain * bnvar_inv * dout
    dhprebn = dbndiff - dbndiff.mean(0, keepdim=True)
    return dhprebn, dbngain, dbnbias


@student(
    batchnorm,
    randn(6, 3),
    torch.ones(1, 3),
    torch.zeros(1, 3),
    mistake="Left bngain out of dhprebn: right on fresh parameters, where it is one, as here.",
    keys=("factor",),
)
def batchnorm_forgets_gain(dout, bnraw, bnvar_inv):
    n = dout.shape[0]
    dbngain = (bnraw * dout).sum(0, keepdim=True)
    dbnbias = dout.sum(0, keepdim=True)
    bracket = n * dout - dout.sum(0) - n / (n - 1) * bnraw * (dout * bnraw).sum(0)
    dhprebn = bnvar_inv / n * bracket
    return dhprebn, dbngain, dbnbias
