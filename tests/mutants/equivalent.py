"""The automatic mutants that are no mistakes: the same function for every input that the forward
accepts, up to rounding.

Each was judged by hand. ``n`` is the number of rows where a reason speaks of it.
"""

from __future__ import annotations

REASONS: dict[str, tuple[str, ...]] = {
    "the two have the same dtype, which the forward refuses to do without": (
        "batchnorm: line 15: dout.dtype → gain.dtype",
        "batchnorm: line 16: gain.dtype → dout.dtype",
        "batchnorm: line 16: gain.dtype → dx.dtype",
        "batchnorm: line 17: gain.dtype → dout.dtype",
        "batchnorm: line 17: gain.dtype → dx.dtype",
        "batchnorm: line 17: gain.dtype → dgain.dtype",
        "batchnorm_inference: line 8: x.dtype → dout.dtype",
        "batchnorm_inference: line 8: x.dtype → gain.dtype",
        "batchnorm_inference: line 8: x.dtype → mean.dtype",
        "batchnorm_inference: line 8: x.dtype → var.dtype",
        "batchnorm_inference: line 9: gain.dtype → dout.dtype",
        "batchnorm_inference: line 9: gain.dtype → x.dtype",
        "batchnorm_inference: line 9: gain.dtype → mean.dtype",
        "batchnorm_inference: line 9: gain.dtype → var.dtype",
        "batchnorm_inference: line 9: gain.dtype → dx.dtype",
        "batchnorm_inference: line 10: gain.dtype → dout.dtype",
        "batchnorm_inference: line 10: gain.dtype → x.dtype",
        "batchnorm_inference: line 10: gain.dtype → mean.dtype",
        "batchnorm_inference: line 10: gain.dtype → var.dtype",
        "batchnorm_inference: line 10: gain.dtype → dx.dtype",
        "batchnorm_inference: line 10: gain.dtype → dgain.dtype",
        "embedding: line 8: weight.dtype → dout.dtype",
        "log_softmax: line 4: out.dtype → dout.dtype",
        "softmax: line 4: out.dtype → dout.dtype",
        "tanh: line 7: out.new_ones → dout.new_ones",
    ),
    "the two have the same size there": (
        "batchnorm: line 9: xhat.shape → dout.shape",
        "batchnorm: line 17: gain.shape → dgain.shape",
        "batchnorm_inference: line 10: gain.shape → dgain.shape",
        "linear: line 5: x.shape → dout.shape",
        "linear: line 7: x.shape → dx.shape",
        "linear: line 7: dout.shape → weight.shape",
        "pow: line 4: x → dout (#2)",
    ),
    "wide() changes nothing, for the next step is with a float32 and computes in float32 anyway": (
        "batchnorm: line 12: upstream → dout",
        "batchnorm: line 15: upstream → dout",
        "batchnorm: line 15: wide(gain) → gain",
        "batchnorm_inference: line 7: wide(x) → x",
        "batchnorm_inference: line 7: wide(mean) → mean",
        "batchnorm_inference: line 8: upstream → dout",
        "batchnorm_inference: line 8: wide(gain) → gain",
        "batchnorm_inference: line 9: upstream → dout",
        "log_softmax: line 4: dlogprobs → dout",
        "softmax: line 3: wide(out) → out",
        "softmax: line 3: wide(dout) → dout",
        "softmax: line 4: probs → out",
        "softmax: line 4: probs → out (#2)",
        "softmax: line 4: dprobs → dout",
        "softmax: line 4: dprobs → dout (#2)",
    ),
    "without wide() one more rounding, in bfloat16 and float16 alone": (
        "batchnorm: line 10: wide(dout) → dout",
        "batchnorm: line 11: upstream.sum → dout.sum",
        "batchnorm_inference: line 5: wide(dout) → dout",
        "batchnorm_inference: line 6: wide(var) → var",
        "batchnorm_inference: line 10: upstream.sum → dout.sum",
        "cross_entropy: line 9: wide(dout) → dout",
        "embedding: line 6: wide(…) → dout.reshape(index.numel(), weight.shape[1])",
        "log_softmax: line 3: wide(out) → out",
        "log_softmax: line 3: wide(dout) → dout",
        "log_softmax: line 4: logprobs.exp → out.exp",
        "log_softmax: line 4: dlogprobs.sum → dout.sum",
    ),
    "a row (c) is broadcast as (1, c) is, and reshaped in the end": (
        "batchnorm: line 11: upstream.sum(0, keepdim=True) → upstream.sum(0)",
        "batchnorm: line 11: keepdim=True → keepdim=False",
        "batchnorm: line 12: (upstream * xhat).sum(0, keepdim=True) → (upstream * xhat).sum(0)",
        "batchnorm: line 12: keepdim=True → keepdim=False",
    ),
    "the same dimension, counted from the other end": (
        "cross_entropy: line 9: 1 → -1",
        "cross_entropy: line 9: 1 → -1 (#2)",
        "embedding: line 6: weight.shape[1] → weight.shape[-1]",
        "matmul: line 11: 1 → -1 (#2)",
        "nll_loss: line 5: 1 → -1",
        "nll_loss: line 5: 1 → -1 (#2)",
    ),
    "scatter reads of its source only what the index, (n, 1), has a place for": (
        "cross_entropy: line 8: n → n + 1",
        "cross_entropy: line 8: 1 → 2",
        "nll_loss: line 4: n → n + 1 (#2)",
        "nll_loss: line 4: 1 → 2",
    ),
    "each place is named once, and was zero": (
        "max: line 7: torch.zeros_like(x).scatter → torch.zeros_like(x).scatter_add",
        "nll_loss: line 5: ….scatter → ….scatter_add",
    ),
    "only the shape of x is read": (
        "max: line 7: x → -x",
        "mean: line 5: x → -x",
        "mean: line 6: x → -x",
        "sum: line 5: x → -x",
    ),
    "a number, which the forward refuses": (
        "matmul: line 6: y.dim() == 1 → y.dim() <= 1",
        "matmul: line 8: x.dim() == 1 → x.dim() <= 1",
        "matmul: line 10: x.dim() == 1 → x.dim() <= 1",
        "matmul: line 11: y.dim() == 1 → y.dim() <= 1",
    ),
    "a vector's row of size 1 is summed away before it is reshaped away": (
        "matmul: line 12: rows.shape → x.shape",
    ),
    "-0 is zero": (
        "embedding: line 8: none.index_add → (-none).index_add",
        "pow: line 4: exponent → -exponent",
    ),
    "new_full has the dtype of probs": ("cross_entropy: line 8: 1.0 → 1",),
}

EQUIVALENT: dict[str, str] = {name: reason for reason, names in REASONS.items() for name in names}
