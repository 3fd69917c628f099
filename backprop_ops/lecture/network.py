"""The lecture's network, a character-level name model, at two levels: atomic and fused.

Both are written in pairs alone, forward and backward, without autograd. `forward` and `backward`
are the lecture's chunks, one value a line. `fused_forward` and `fused_backward` are the same
network, with one formula each for cross-entropy and batch normalization.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backprop_ops.ops.batchnorm import (
    BatchNorm,
    batchnorm,
    batchnorm_backward,
    batchnorm_inference,
)
from backprop_ops.ops.elementwise import (
    add,
    add_backward,
    exp,
    exp_backward,
    log,
    log_backward,
    mul,
    mul_backward,
    pow,
    pow_backward,
    sub,
    sub_backward,
    tanh,
    tanh_backward,
)
from backprop_ops.ops.indexing import embedding, embedding_backward
from backprop_ops.ops.linear import linear, linear_backward
from backprop_ops.ops.loss import (
    CrossEntropy,
    cross_entropy,
    cross_entropy_backward,
    nll_loss,
    nll_loss_backward,
)
from backprop_ops.ops.reduction import max, max_backward, mean, mean_backward, sum, sum_backward
from backprop_ops.ops.shape import reshape, reshape_backward

BLOCK_SIZE = 3  # characters of context
EMBEDDING = 10  # numbers a character
EPS = 1e-5
LECTURE_SEED = 2147483647  # of the parameters and then the batches


class Parameters(NamedTuple):
    """The parameters, or their gradients, under the lecture's names."""

    C: Tensor  # (vocabulary, embedding)
    W1: Tensor  # (block · embedding, hidden)
    b1: Tensor  # (hidden)
    W2: Tensor  # (hidden, vocabulary)
    b2: Tensor  # (vocabulary)
    bngain: Tensor  # (1, hidden)
    bnbias: Tensor  # (1, hidden)


def initialize(vocabulary: int, hidden: int, generator: torch.Generator) -> Parameters:
    """The lecture's initialization, in float32, with no zero that would mask a wrong backward.

    The lecture draws bngain and bnbias from the global generator, unseeded. Here they have a
    generator of their own, so that ``generator`` goes on to draw the lecture's batches.
    """
    fan_in = BLOCK_SIZE * EMBEDDING
    own = torch.Generator().manual_seed(generator.initial_seed() + 1)
    return Parameters(
        C=torch.randn((vocabulary, EMBEDDING), generator=generator),
        W1=torch.randn((fan_in, hidden), generator=generator) * (5 / 3) / fan_in**0.5,
        b1=torch.randn(hidden, generator=generator) * 0.1,
        W2=torch.randn((hidden, vocabulary), generator=generator) * 0.1,
        b2=torch.randn(vocabulary, generator=generator) * 0.1,
        bngain=torch.randn((1, hidden), generator=own) * 0.1 + 1.0,
        bnbias=torch.randn((1, hidden), generator=own) * 0.1,
    )


class Nodes(NamedTuple):
    """Every value of the forward pass, or the gradients of all of them, in forward order.

    The names are the lecture's. Where it writes two operations in one line, the value between
    them has a field too: bnsum, bnvar_eps, bnscaled.
    """

    C: Tensor
    W1: Tensor
    b1: Tensor
    W2: Tensor
    b2: Tensor
    bngain: Tensor
    bnbias: Tensor
    emb: Tensor  # (n, block, embedding)
    embcat: Tensor  # (n, block · embedding)
    hprebn: Tensor  # (n, hidden)
    bnmeani: Tensor  # (1, hidden)
    bndiff: Tensor
    bndiff2: Tensor
    bnsum: Tensor
    bnvar: Tensor
    bnvar_eps: Tensor
    bnvar_inv: Tensor
    bnraw: Tensor
    bnscaled: Tensor
    hpreact: Tensor
    h: Tensor
    logits: Tensor  # (n, vocabulary)
    logit_maxes: Tensor  # (n, 1)
    norm_logits: Tensor
    counts: Tensor
    counts_sum: Tensor
    counts_sum_inv: Tensor
    probs: Tensor
    logprobs: Tensor
    loss: Tensor  # scalar


# The rows that the lecture compares, in its order.
LECTURE_ROWS = (
    *("logprobs", "probs", "counts_sum_inv", "counts_sum", "counts", "norm_logits"),
    *("logit_maxes", "logits", "h", "W2", "b2", "hpreact", "bngain", "bnbias", "bnraw"),
    *("bnvar_inv", "bnvar", "bndiff2", "bndiff", "bnmeani", "hprebn", "embcat", "W1", "b1"),
    *("emb", "C"),
)


def forward(parameters: Parameters, context: Tensor, target: Tensor) -> Nodes:
    """The lecture's forward pass: context (n, block) and target (n), characters by number."""
    C, W1, b1, W2, b2, bngain, bnbias = parameters
    n = len(context)
    emb = embedding(context, C)
    embcat = reshape(emb, shape=(n, -1))
    hprebn = linear(embcat, W1, b1)
    bnmeani = mean(hprebn, dim=0, keepdim=True)
    bndiff = sub(hprebn, bnmeani)
    bndiff2 = pow(bndiff, exponent=2)
    bnsum = sum(bndiff2, dim=0, keepdim=True)
    bnvar = mul(1 / (n - 1), bnsum)  # Bessel's correction
    bnvar_eps = add(bnvar, EPS)
    bnvar_inv = pow(bnvar_eps, exponent=-0.5)
    bnraw = mul(bndiff, bnvar_inv)
    bnscaled = mul(bngain, bnraw)
    hpreact = add(bnscaled, bnbias)
    h = tanh(hpreact)
    logits = linear(h, W2, b2)
    logit_maxes = max(logits, dim=1, keepdim=True)
    norm_logits = sub(logits, logit_maxes)  # for numerical stability
    counts = exp(norm_logits)
    counts_sum = sum(counts, dim=1, keepdim=True)
    counts_sum_inv = pow(counts_sum, exponent=-1)
    probs = mul(counts, counts_sum_inv)
    logprobs = log(probs)
    loss = nll_loss(logprobs, target)
    return Nodes(
        *parameters,
        emb=emb,
        embcat=embcat,
        hprebn=hprebn,
        bnmeani=bnmeani,
        bndiff=bndiff,
        bndiff2=bndiff2,
        bnsum=bnsum,
        bnvar=bnvar,
        bnvar_eps=bnvar_eps,
        bnvar_inv=bnvar_inv,
        bnraw=bnraw,
        bnscaled=bnscaled,
        hpreact=hpreact,
        h=h,
        logits=logits,
        logit_maxes=logit_maxes,
        norm_logits=norm_logits,
        counts=counts,
        counts_sum=counts_sum,
        counts_sum_inv=counts_sum_inv,
        probs=probs,
        logprobs=logprobs,
        loss=loss,
    )


def backward(v: Nodes, context: Tensor, target: Tensor) -> Nodes:
    """The gradients of the loss with respect to every value, by hand, in reverse order.

    ``v.`` marks a value of the forward pass, a bare ``d`` name a gradient made here. A value that
    is used twice gets the sum of both uses.
    """
    n = len(context)
    dloss = torch.ones_like(v.loss)
    dlogprobs = nll_loss_backward(dloss, v.logprobs, target)
    dprobs = log_backward(dlogprobs, v.probs)
    dcounts_1, dcounts_sum_inv = mul_backward(dprobs, v.counts, v.counts_sum_inv)
    dcounts_sum = pow_backward(dcounts_sum_inv, v.counts_sum, exponent=-1)
    dcounts_2 = sum_backward(dcounts_sum, v.counts, dim=1, keepdim=True)
    dcounts = dcounts_1 + dcounts_2
    dnorm_logits = exp_backward(dcounts, v.counts)
    dlogits_1, dlogit_maxes = sub_backward(dnorm_logits, v.logits, v.logit_maxes)
    dlogits_2 = max_backward(dlogit_maxes, v.logits, dim=1)
    dlogits = dlogits_1 + dlogits_2
    dh, dW2, db2 = linear_backward(dlogits, v.h, v.W2, v.b2)
    dhpreact = tanh_backward(dh, v.h)
    dbnscaled, dbnbias = add_backward(dhpreact, v.bnscaled, v.bnbias)
    dbngain, dbnraw = mul_backward(dbnscaled, v.bngain, v.bnraw)
    dbndiff_1, dbnvar_inv = mul_backward(dbnraw, v.bndiff, v.bnvar_inv)
    dbnvar_eps = pow_backward(dbnvar_inv, v.bnvar_eps, exponent=-0.5)
    dbnvar, _ = add_backward(dbnvar_eps, v.bnvar, EPS)
    _, dbnsum = mul_backward(dbnvar, 1 / (n - 1), v.bnsum)
    dbndiff2 = sum_backward(dbnsum, v.bndiff2, dim=0, keepdim=True)
    dbndiff_2 = pow_backward(dbndiff2, v.bndiff, exponent=2)
    dbndiff = dbndiff_1 + dbndiff_2
    dhprebn_1, dbnmeani = sub_backward(dbndiff, v.hprebn, v.bnmeani)
    dhprebn_2 = mean_backward(dbnmeani, v.hprebn, dim=0, keepdim=True)
    dhprebn = dhprebn_1 + dhprebn_2
    dembcat, dW1, db1 = linear_backward(dhprebn, v.embcat, v.W1, v.b1)
    demb = reshape_backward(dembcat, v.emb)
    dC = embedding_backward(demb, context, v.C)
    return Nodes(
        C=dC,
        W1=dW1,
        b1=db1,
        W2=dW2,
        b2=db2,
        bngain=dbngain,
        bnbias=dbnbias,
        emb=demb,
        embcat=dembcat,
        hprebn=dhprebn,
        bnmeani=dbnmeani,
        bndiff=dbndiff,
        bndiff2=dbndiff2,
        bnsum=dbnsum,
        bnvar=dbnvar,
        bnvar_eps=dbnvar_eps,
        bnvar_inv=dbnvar_inv,
        bnraw=dbnraw,
        bnscaled=dbnscaled,
        hpreact=dhpreact,
        h=dh,
        logits=dlogits,
        logit_maxes=dlogit_maxes,
        norm_logits=dnorm_logits,
        counts=dcounts,
        counts_sum=dcounts_sum,
        counts_sum_inv=dcounts_sum_inv,
        probs=dprobs,
        logprobs=dlogprobs,
        loss=dloss,
    )


class Activations(NamedTuple):
    """The values that the fused forward pass keeps for the fused backward."""

    emb: Tensor  # (n, block, embedding)
    embcat: Tensor  # (n, block · embedding)
    hpreact: BatchNorm  # (n, hidden)
    h: Tensor  # (n, hidden)
    loss: CrossEntropy


def _embed(parameters: Parameters, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """emb, embcat and hprebn: the network before batch normalization."""
    C, W1, b1, *_ = parameters
    emb = embedding(context, C)
    embcat = reshape(emb, shape=(len(context), -1))
    hprebn = linear(embcat, W1, b1)
    return emb, embcat, hprebn


def fused_forward(parameters: Parameters, context: Tensor, target: Tensor) -> Activations:
    """The same network, with exercises 2 and 3 as one pair each."""
    _, _, _, W2, b2, bngain, bnbias = parameters
    emb, embcat, hprebn = _embed(parameters, context)
    hpreact = batchnorm(hprebn, bngain, bnbias, eps=EPS, correction=1)
    h = tanh(hpreact.out)
    logits = linear(h, W2, b2)
    loss = cross_entropy(logits, target)
    return Activations(emb, embcat, hpreact, h, loss)


def fused_backward(
    parameters: Parameters, v: Activations, context: Tensor, target: Tensor
) -> Parameters:
    """The gradients of the loss with respect to the parameters."""
    C, W1, b1, W2, b2, bngain, _ = parameters
    dloss = torch.ones_like(v.loss.out)
    dlogits = cross_entropy_backward(dloss, target, v.loss.probs, v.loss.divisor)
    dh, dW2, db2 = linear_backward(dlogits, v.h, W2, b2)
    dhpreact = tanh_backward(dh, v.h)
    dhprebn, dbngain, dbnbias = batchnorm_backward(
        dhpreact, bngain, v.hpreact.xhat, v.hpreact.inv_std, correction=1
    )
    dembcat, dW1, db1 = linear_backward(dhprebn, v.embcat, W1, b1)
    demb = reshape_backward(dembcat, v.emb)
    dC = embedding_backward(demb, context, C)
    return Parameters(C=dC, W1=dW1, b1=db1, W2=dW2, b2=db2, bngain=dbngain, bnbias=dbnbias)


class Statistics(NamedTuple):
    """The mean and variance of hprebn over the training set, for use after training."""

    mean: Tensor  # (1, hidden)
    var: Tensor  # (1, hidden), with Bessel's correction


def calibrate(parameters: Parameters, context: Tensor) -> Statistics:
    """From the mean and covariance of embcat, since hprebn is linear in it: var = diag(W1ᵀ Σ W1).

    hprebn itself would be (n, hidden), of a whole training set.
    """
    C, W1, b1 = (parameter.double() for parameter in parameters[:3])
    embcat = C[context].flatten(1)
    mean = embcat.mean(0, keepdim=True)
    embcat -= mean
    covariance = embcat.T @ embcat / (len(context) - 1)
    var = (W1 * (covariance @ W1)).sum(0, keepdim=True)
    return Statistics(*(x.to(parameters.W1.dtype) for x in (mean @ W1 + b1, var)))


def predict(parameters: Parameters, statistics: Statistics, context: Tensor) -> Tensor:
    """The logits, (n, vocabulary), for the next character, with calibrated statistics."""
    _, _, _, W2, b2, bngain, bnbias = parameters
    _, _, hprebn = _embed(parameters, context)
    hpreact = batchnorm_inference(
        hprebn, bngain, bnbias, mean=statistics.mean, var=statistics.var, eps=EPS
    )
    return linear(tanh(hpreact), W2, b2)
