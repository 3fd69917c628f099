"""The automatic mutants that are no mistakes: the same function for every input that the forward
accepts, up to rounding.

Each was judged by hand. ``n`` is the number of rows where a reason speaks of it.
"""

from __future__ import annotations

REASONS: dict[str, tuple[str, ...]] = {
    "the two have the same dtype, which the forward refuses to do without": (
        "log_softmax: line 4: out.dtype → dout.dtype",
        "softmax: line 4: out.dtype → dout.dtype",
        "tanh: line 7: out.new_ones → dout.new_ones",
        "batchnorm: line 17: gain.dtype → dout.dtype",
        "batchnorm: line 17: gain.dtype → dx.dtype",
        "batchnorm: line 18: gain.dtype → dout.dtype",
        "batchnorm: line 18: gain.dtype → dx.dtype",
        "batchnorm: line 18: gain.dtype → dgain.dtype",
        "batchnorm_inference: line 16: x.dtype → dout.dtype",
        "batchnorm_inference: line 17: gain.dtype → dout.dtype",
        "batchnorm_inference: line 17: gain.dtype → x.dtype",
        "batchnorm_inference: line 17: gain.dtype → dx.dtype",
        "embedding: line 21: weight.dtype → dout.dtype",
        "nll_loss: line 14: logprobs.dtype → dout.dtype",
        "cross_entropy: line 27: probs.new_ones → divisor.new_ones",
        "cross_entropy: line 27: probs.new_ones → dlosses.new_ones",
        "cross_entropy: line 27: probs.new_ones → row_weight.new_ones",
        "soft_cross_entropy: line 19: target.dtype → dout.dtype",
        "soft_cross_entropy: line 21: target.dtype → dout.dtype",
        "soft_cross_entropy: line 21: target.dtype → dlogits.dtype",
    ),
    "the two have the same size there": (
        "linear: line 5: x.shape → dout.shape",
        "linear: line 7: x.shape → dx.shape",
        "linear: line 7: dout.shape → weight.shape",
        "pow: line 4: x → dout (#2)",
        "batchnorm: line 18: gain.shape → dgain.shape",
        "batchnorm_inference: line 18: gain.shape → dgain.shape",
        "batchnorm: line 9: xhat → dout",
        "batchnorm: line 9: xhat.dim → dout.dim",
        "batchnorm: line 9: xhat.dim → inv_std.dim",
        "batchnorm_inference: line 11: x.dim → dout.dim",
        "embedding: line 20: weight.shape → none.shape",
        "soft_cross_entropy: line 15: logprobs.select → target.select",
        "soft_cross_entropy: line 15: 0 → -1",
        "soft_cross_entropy: line 14: logprobs → target",
    ),
    "wide() changes nothing, for the next step is with a float32 and computes in float32 anyway": (
        "log_softmax: line 4: dlogprobs → dout",
        "softmax: line 3: wide(out) → out",
        "softmax: line 3: wide(dout) → dout",
        "softmax: line 4: probs → out",
        "softmax: line 4: probs → out (#2)",
        "softmax: line 4: dprobs → dout",
        "softmax: line 4: dprobs → dout (#2)",
    ),
    "without wide() one more rounding, in bfloat16 and float16 alone": (
        "log_softmax: line 3: wide(out) → out",
        "log_softmax: line 3: wide(dout) → dout",
        "log_softmax: line 4: logprobs.exp → out.exp",
        "log_softmax: line 4: dlogprobs.sum → dout.sum",
        "batchnorm: line 11: wide(dout) → dout",
        "embedding: line 14: wide(…) → dout.reshape(places.shape[0], weight.shape[1])",
        "nll_loss: line 12: wide(logprobs) → logprobs",
        "soft_cross_entropy: line 17: wide(upstream) → upstream",
        "soft_cross_entropy: line 21: dq → target (#2)",
    ),
    "the same dimension, counted from the other end": (
        "matmul: line 11: 1 → -1 (#2)",
        "embedding: line 14: places.shape[0] → places.shape[-1]",
        "embedding: line 14: weight.shape[1] → weight.shape[-1]",
        "embedding: line 20: 1 → -1",
    ),
    "each place is named once, and was zero": (
        "max: line 7: torch.zeros_like(x).scatter → torch.zeros_like(x).scatter_add",
        "nll_loss: line 15: ….scatter → ….scatter_add",
    ),
    "only the shape and the dtype are read": (
        "max: line 7: x → -x",
        "mean: line 5: x → -x",
        "mean: line 6: x → -x",
        "sum: line 5: x → -x",
        "batchnorm: line 9: xhat → -xhat",
        "embedding: line 17: rows[:, :1] → (-rows)[:, :1]",
        "nll_loss: line 11: logprobs → -logprobs",
        "nll_loss: line 12: logprobs → -logprobs",
        "cross_entropy: line 17: probs → divisor",
        "cross_entropy: line 17: probs → -probs",
        "cross_entropy: line 20: probs → divisor",
        "cross_entropy: line 20: probs → dlosses",
        "cross_entropy: line 20: probs → -probs",
        "cross_entropy: line 23: probs → -probs",
        "soft_cross_entropy: line 14: logprobs → -logprobs",
        "soft_cross_entropy: line 15: logprobs.select → (-logprobs).select",
        "soft_cross_entropy: line 21: dq → logprobs (#2)",
        "soft_cross_entropy: line 21: dq → q (#2)",
        "soft_cross_entropy: line 21: dq → dlogits (#2)",
        "soft_cross_entropy: line 21: dq → -dq (#2)",
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
        "pow: line 4: exponent → -exponent",
        "embedding: line 17: none[:, :1] → (-none)[:, :1]",
        "embedding: line 21: none.index_add → (-none).index_add",
    ),
    "the same dtype, unless statistics are in float32 beside an x that is not: no sample is so": (
        "batchnorm_inference: line 16: x.dtype → mean.dtype",
        "batchnorm_inference: line 16: x.dtype → var.dtype",
        "batchnorm_inference: line 17: gain.dtype → mean.dtype",
        "batchnorm_inference: line 17: gain.dtype → var.dtype",
    ),
    "None where gain is None, as dgain is then": (
        "batchnorm: line 18: gain → dgain",
        "batchnorm_inference: line 18: gain → dgain",
    ),
    "without smoothing the smoothed formula is the other one": (
        "cross_entropy: line 21: label_smoothing → 1",
        "cross_entropy: line 21: label_smoothing → -label_smoothing",
        "cross_entropy: line 21: label_smoothing → label_smoothing + 1",
    ),
    "of the three reductions the mean is the first in the alphabet": (
        "soft_cross_entropy: line 15: reduction == 'mean' → reduction <= 'mean'",
    ),
}

EQUIVALENT: dict[str, str] = {name: reason for reason, names in REASONS.items() for name in names}
