"""The same numbers in another place or order in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from torch import Tensor

from backprop_ops.checking.acceptance import accepts, outputs_of, same_outputs
from backprop_ops.checking.case import Case, LaidOut, Make, Reach, Shared
from backprop_ops.checking.variations.maker import Maker
from backprop_ops.leaves import replaced
from backprop_ops.pair import Pair


def layouts_of_the_upstream(pair: Pair, sample: Case) -> Iterator[Case]:
    for how, lay_out in LAYOUTS.items():
        yield sample.but(LaidOut(None, how, lay_out))
    yield sample.but(
        LaidOut(None, "expanded from one number", lambda u: u.new_full((), 0.75).expand(u.shape))
    )
    for d in range(max(u.dim() for u in outputs_of(pair, sample.arguments).values())):

        def expanded(u: Tensor, d: int = d) -> Tensor:
            return u.narrow(d, 0, 1).expand(u.shape) if 1 < u.dim() > d and u.shape[d] else u

        yield sample.but(LaidOut(None, f"expanded along dimension {d}", expanded))


def few_layouts_of_the_upstream(pair: Pair, case: Case) -> Iterator[Case]:
    """As a second change: transposed, and with its last dimension first."""
    dims = max(u.dim() for u in outputs_of(pair, case.arguments).values())
    for how, lay_out, least in (
        ("transposed", _transposed, 2),
        ("laid out with its last dimension first", _last_first, 3),
    ):
        if dims >= least:
            yield case.but(LaidOut(None, how, lay_out))


def layouts(maker: Maker, sample: Case) -> Iterator[Case]:
    pair = maker.pair
    for how, lay_out in LAYOUTS.items():
        for name, leaf in pair.leaves(sample.arguments).items():
            laid_out = lay_out(leaf)
            if laid_out is not leaf:
                arguments = replaced(sample.arguments, {name: laid_out})
                # A forward that reads the memory itself, as as_strided does, means another thing.
                if accepts(pair, arguments) and same_outputs(pair, sample.arguments, arguments):
                    yield sample.but(LaidOut(name, how), arguments)


def expanded(maker: Maker, sample: Case) -> Iterator[Case]:
    """Inputs that repeat their first elements, in memory too."""
    pair = maker.pair
    for name, leaf in pair.leaves(sample.arguments).items():
        for d in range(leaf.dim()):
            if leaf.shape[d] > 1 and name not in maker.maps:  # whose result is laid out anew
                repeated = leaf.narrow(d, 0, 1).expand(leaf.shape)
                kept = not maker.structures.left(replaced(sample.arguments, {name: repeated}))
                arguments = replaced(sample.arguments, {name: repeated})
                plain = replaced(sample.arguments, {name: repeated.contiguous()})
                # Some of torch's own forwards give something else of a memory that repeats.
                taken = accepts(pair, plain) and accepts(pair, arguments)
                if taken and same_outputs(pair, plain, arguments):
                    reach: Reach = "alike" if kept else "beyond"
                    change = LaidOut(name, f"expanded along dimension {d}", reach=reach)
                    yield sample.but(change, arguments)


def inputs(maker: Maker, sample: Case) -> Iterator[Case]:
    """The same tensor twice."""
    pair = maker.pair
    for one, other in itertools.combinations(pair.leaves(sample.arguments).items(), 2):
        if one[1].shape == other[1].shape and one[1].dtype == other[1].dtype:
            arguments = replaced(sample.arguments, {other[0]: one[1]})
            if accepts(pair, arguments):
                kept = not maker.structures.left(arguments)
                change = Shared(one[0], other[0], reach="alike" if kept else "beyond")
                yield sample.but(change, arguments)


def _transposed(x: Tensor) -> Tensor:
    """The same numbers with the strides of the reversed shape."""
    order = list(reversed(range(x.dim())))
    return x.permute(order).contiguous().permute(order) if x.dim() > 1 else x


def _sliced(x: Tensor) -> Tensor:
    """The same numbers as a slice of a wider buffer that is filled with others."""
    if x.dim() == 0:
        return x
    wider = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 1), 7)
    wider[..., 1::2] = x
    return wider[..., 1::2]


def _further_on(x: Tensor) -> Tensor:
    """The same numbers one after the other, but not from the beginning of their buffer."""
    longer = x.new_full((x.numel() + 3,), 7)
    longer[3:] = x.flatten()
    return longer[3:].view(x.shape)


def _last_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 0).contiguous().movedim(0, -1) if x.dim() > 2 else x


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 2 else x


def _first_two_exchanged(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 2 else x


LAYOUTS: dict[str, Make] = {
    "transposed": _transposed,
    "a slice of a wider buffer": _sliced,
    "a part of a longer buffer": _further_on,
    "laid out with its last dimension first": _last_first,
    "laid out with dimension 1 last": _channels_last,
    "laid out with its first two dimensions exchanged": _first_two_exchanged,
}
"""The tensor itself where it has no other layout of the kind."""
