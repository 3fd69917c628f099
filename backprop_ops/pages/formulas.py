"""The formulas of the lecture's network, forward and backward, typeset as MathML.

A name stands for its value and d with a name for the gradient of the loss with respect to it.
y is the target, V the vocabulary's size, ⊙ the product entry by entry; sizes of 1 broadcast.
"""

from __future__ import annotations

import re

from latex2mathml.converter import convert

FORWARD = {
    "emb": r"emb_{ib} = C_{x_{ib}}",
    "embcat": r"embcat_{i} = (emb_{i1}, emb_{i2}, emb_{i3})",
    "hprebn": r"hprebn = embcat \, W_{1} + b_{1}",
    "bnmeani": r"bnmeani = \frac{1}{n} \sum_{i} hprebn_{i}",
    "bndiff": r"bndiff = hprebn - bnmeani",
    "bndiff2": r"bndiff2 = bndiff^{2}",
    "bnsum": r"bnsum = \sum_{i} bndiff2_{i}",
    "bnvar": r"bnvar = \frac{1}{n - 1} \, bnsum",
    "bnvar_eps": r"bnvar_eps = bnvar + \varepsilon",
    "bnvar_inv": r"bnvar_inv = bnvar_eps^{-1/2}",
    "bnraw": r"bnraw = bndiff \odot bnvar_inv",
    "bnscaled": r"bnscaled = bngain \odot bnraw",
    "hpreact": r"hpreact = bnscaled + bnbias",
    "h": r"h = \tanh(hpreact)",
    "logits": r"logits = h \, W_{2} + b_{2}",
    "logit_maxes": r"logit_maxes_{i} = \max_{j} logits_{ij}",
    "norm_logits": r"norm_logits = logits - logit_maxes",
    "counts": r"counts = \exp(norm_logits)",
    "counts_sum": r"counts_sum_{i} = \sum_{j} counts_{ij}",
    "counts_sum_inv": r"counts_sum_inv = counts_sum^{-1}",
    "probs": r"probs = counts \odot counts_sum_inv",
    "logprobs": r"logprobs = \log(probs)",
    "loss": r"loss = -\frac{1}{n} \sum_{i} logprobs_{i y_{i}}",
}
BACKWARD = {
    "C": r"dC_{v} = \sum_{x_{ib} = v} demb_{ib}",
    "W1": r"dW_{1} = embcat^{\top} \, dhprebn",
    "b1": r"db_{1} = \sum_{i} dhprebn_{i} = 0",
    "W2": r"dW_{2} = h^{\top} \, dlogits",
    "b2": r"db_{2} = \sum_{i} dlogits_{i}",
    "bngain": r"dbngain = \sum_{i} dbnscaled_{i} \odot bnraw_{i}",
    "bnbias": r"dbnbias = \sum_{i} dhpreact_{i}",
    "emb": r"(demb_{i1}, demb_{i2}, demb_{i3}) = dembcat_{i}",
    "embcat": r"dembcat = dhprebn \, W_{1}^{\top}",
    "hprebn": r"dhprebn = dbndiff + \frac{1}{n} dbnmeani",
    "bnmeani": r"dbnmeani = -\sum_{i} dbndiff_{i}",
    "bndiff": r"dbndiff = dbnraw \odot bnvar_inv + 2 \, bndiff \odot dbndiff2",
    "bndiff2": r"dbndiff2_{i} = dbnsum",
    "bnsum": r"dbnsum = \frac{1}{n - 1} \, dbnvar",
    "bnvar": r"dbnvar = dbnvar_eps",
    "bnvar_eps": r"dbnvar_eps = -\frac{1}{2} \, bnvar_eps^{-3/2} \odot dbnvar_inv",
    "bnvar_inv": r"dbnvar_inv = \sum_{i} dbnraw_{i} \odot bndiff_{i}",
    "bnraw": r"dbnraw = bngain \odot dbnscaled",
    "bnscaled": r"dbnscaled = dhpreact",
    "hpreact": r"dhpreact = (1 - h^{2}) \odot dh",
    "h": r"dh = dlogits \, W_{2}^{\top}",
    "logits": r"dlogits_{ij} = dnorm_logits_{ij}"
    r" + [logits_{ij} = \max_{k} logits_{ik}] \, dlogit_maxes_{i}",
    "logit_maxes": r"dlogit_maxes_{i} = -\sum_{j} dnorm_logits_{ij} = 0",
    "norm_logits": r"dnorm_logits = counts \odot dcounts",
    "counts": r"dcounts = counts_sum_inv \odot dprobs + dcounts_sum",
    "counts_sum": r"dcounts_sum = -counts_sum^{-2} \odot dcounts_sum_inv",
    "counts_sum_inv": r"dcounts_sum_inv_{i} = \sum_{j} counts_{ij} \, dprobs_{ij}",
    "probs": r"dprobs = dlogprobs \odot probs^{-1}",
    "logprobs": r"dlogprobs_{ij} = -\frac{1}{n} [j = y_{i}] \, dloss",
    "loss": r"dloss = 1",
}
CROSS_ENTROPY = r"dlogits = \frac{1}{n} (probs - [j = y_{i}]) \, dloss"
BATCHNORM = (
    r"dhprebn = \frac{bngain \odot bnvar_inv}{n} \odot (n \, dhpreact"
    r" - \sum_{i} dhpreact_{i}"
    r" - \frac{n}{n - 1} \, bnraw \odot \sum_{i} dhpreact_{i} \odot bnraw_{i})"
)
"""The collapsed formulas of exercises 2 and 3."""

# A word of two letters or more is a name, unless it is a command.
_NAME = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}\d?(?:_[A-Za-z]+)*")


def typeset(formula: str) -> str:
    """LaTeX as MathML, which browsers show without a script."""

    def name(match: re.Match[str]) -> str:
        return r"\text{" + match[0] + "}"

    # Indices are pairs of letters, not names.
    parts = re.split(r"(_\{[a-z]+[12 3]?\}|_\{i y_\{i\}\}|_\{x_\{ib\}[^}]*\})", formula)
    latex = "".join(
        part if number % 2 else _NAME.sub(name, part) for number, part in enumerate(parts)
    )
    return convert(latex, display="block")
