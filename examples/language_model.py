"""A small language model of names, compiled, whose normalization and loss are custom operators.

    python language_model.py

`custom_op` makes an operator of a pair. `torch.compile(fullgraph=True)` takes it as it is: no graph
break, and the backward by hand in the backward graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import backprop_ops
from backprop_ops import custom_op
from backprop_ops.lecture.data import build_dataset, read_names

STEPS, BATCH = 200, 64

normalize = custom_op(
    backprop_ops.batchnorm, backprop_ops.batchnorm_backward, "examples::batchnorm"
)
entropy = custom_op(
    backprop_ops.cross_entropy, backprop_ops.cross_entropy_backward, "examples::cross_entropy"
)
activation = custom_op(backprop_ops.tanh, backprop_ops.tanh_backward, "examples::tanh")


class Model(nn.Module):
    """Three characters in, the logits of the fourth out."""

    def __init__(self, vocabulary: int, embedding: int = 10, hidden: int = 100) -> None:
        super().__init__()
        self.characters = nn.Embedding(vocabulary, embedding)
        self.first = nn.Linear(3 * embedding, hidden, bias=False)
        self.gain = nn.Parameter(torch.ones(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.last = nn.Linear(hidden, vocabulary)

    def forward(self, context: Tensor) -> Tensor:
        embedded = self.characters(context).flatten(1)
        normalized = normalize(self.first(embedded), self.gain, self.bias).out
        logits: Tensor = self.last(activation(normalized))
        return logits


def main() -> None:
    torch.manual_seed(0)
    data = build_dataset(read_names())
    context, target = data.train
    model = Model(data.vocabulary)

    @torch.compile(fullgraph=True)
    def loss_of(context: Tensor, target: Tensor) -> Tensor:
        return entropy(model(context), target).out

    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(STEPS + 1):
        batch = torch.randint(len(context), (BATCH,))
        loss = loss_of(context[batch], target[batch])
        if step % 50 == 0:
            print(f"step {step:4}  loss {loss.item():.4f}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's is untyped
        optimizer.step()


if __name__ == "__main__":
    main()
