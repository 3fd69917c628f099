"""Ten pairs whose backward has one mistake each, of kinds that are found in real code.

`backprop-ops check docs/wrong.py` prints what is said of them; reports.md is made of that.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


# The bias is added to every row.
def add_bias(x, bias):
    return x + bias


def add_bias_backward(dout):
    return dout, dout


def add_bias_sample():
    return torch.randn(4, 3), torch.randn(3)


# The upstream is taken for one, as it is where the mean is the loss itself.
def mean_loss(x):
    return x.mean()


def mean_loss_backward(dout, x):
    return torch.full_like(x, 1 / x.numel())


def mean_loss_sample():
    return (torch.randn(3, 4),)


# Every entry is in the mean of its row too.
def centre(x):
    return x - x.mean(-1, keepdim=True)


def centre_backward(dout):
    return dout.clone()


def centre_sample():
    return (torch.randn(4, 6),)


# The variance of the forward divides by n.
class Normalized(NamedTuple):
    out: Tensor
    xhat: Tensor
    inv_std: Tensor


def normalize(x, *, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    inv_std = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    return Normalized(centred * inv_std, centred * inv_std, inv_std)


def normalize_backward(dout, xhat, inv_std):
    n = xhat.shape[-1]
    along = (dout * xhat).sum(-1, keepdim=True) / (n - 1)
    return inv_std * (dout - dout.mean(-1, keepdim=True) - xhat * along)


def normalize_sample():
    return (torch.randn(4, 6),)


# Every output depends on every input of its row.
def softmax(x):
    return x.softmax(-1)


def softmax_backward(dout, out):
    return dout * out * (1 - out)


def softmax_sample():
    return (torch.randn(3, 5),)


# A row that is looked up twice learns from both places.
def lookup(weight, index):
    return weight[index]


def lookup_backward(dout, weight, index):
    dweight = torch.zeros_like(weight)
    dweight[index] = dout
    return dweight


def lookup_sample():
    return torch.randn(5, 3), torch.tensor([4, 0, 2])


# A row whose target is to be ignored learns nothing, and is not counted.
def token_loss(logits, target, *, ignore_index=-100):
    return functional.cross_entropy(logits, target, ignore_index=ignore_index, reduction="sum")


def token_loss_backward(dout, logits, target, *, ignore_index=-100):
    right = torch.arange(logits.shape[1]) == target[:, None]
    return dout * (logits.softmax(1) - right.to(logits.dtype))


def token_loss_sample():
    return torch.randn(4, 5), torch.tensor([1, 0, 4, 2])


# The upstream is not the backward's to write to.
def scale(x, *, by=2.0):
    return x * by


def scale_backward(dout, *, by):
    dout *= by
    return dout


def scale_sample():
    return (torch.randn(3, 4),)


# Where both are the largest they share the upstream.
def larger(x, y):
    return torch.maximum(x, y)


def larger_backward(dout, x, y):
    return dout * (x >= y), dout * (y >= x)


def larger_sample():
    return torch.randn(3, 4), torch.randn(3, 4)


# The exponential of 90 is no float32.
def softplus(x):
    return functional.softplus(x)


def softplus_backward(dout, x):
    return dout * x.exp() / (1 + x.exp())


def softplus_sample():
    return (torch.randn(3, 4),)
