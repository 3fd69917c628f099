"""One call of a pair: the forward, the backward, and the judge of its gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from backprop_ops._torch import sparse_indices
from backprop_ops.checking.autograd_pair import AutogradPair
from backprop_ops.checking.case import Case
from backprop_ops.checking.differences import Differences
from backprop_ops.checking.global_state import global_state_kept
from backprop_ops.checking.isolation import forked
from backprop_ops.checking.judging import Autograd, Judge, Undifferentiable
from backprop_ops.checking.structure import Structures
from backprop_ops.leaves import Arguments, by_leaf, copied
from backprop_ops.pair import Pair, PairError

WAIVED = frozenset({"purity", "repeat", "alias"})  # skipped, a backward may write and free

T = TypeVar("T")


@dataclass(frozen=True)
class Oracle:
    """Who says what is right.

    ``differentiated``: the pair whose forward autograd differentiates; None where finite
    differences judge. ``differenced``: the pair whose forward they ask. ``compared``: the pair
    whose outputs the forward's have to equal. ``on_purpose``: whether the gradient is another
    function's, of which finite differences of the forward say nothing. ``confirmed``: whether
    finite differences have to agree with autograd, from which a Function's forward may hide.
    ``structures``: those of the sample, which their steps keep.
    """

    differentiated: Pair | None
    differenced: Pair
    compared: Pair | None = None
    on_purpose: bool = False
    confirmed: bool = False
    structures: Structures = field(default_factory=Structures)

    def differences(self, arguments: Arguments, upstreams: Mapping[str, Tensor]) -> Differences:
        tangents = self.structures.tangents(arguments)
        return Differences(self.differenced, arguments, upstreams, tangents)


class BackwardRaises(Exception):  # noqa: N818  # what it is, to be reported
    """The backward raises; the message says what."""


class Outside(Exception):  # noqa: N818  # as above
    """The forward, its reference or its derivative has no value here: the backward needs none."""


class Call(NamedTuple):
    """One call of the forward and, once it was made, of the backward."""

    arguments: dict[str, Any]
    result: Any
    fields: dict[str, Any]
    upstreams: dict[str, Tensor]


@dataclass
class Learned:
    """What the calls of a check have shown.

    ``notes``: on each leaf that was right only as a kink is, and on precisions that the backward
    does not take, by the leaf or variation. ``judged``: the leaves of which some case proved
    something. ``differenced``: those on which the two judges disagree on the sample, and the
    backward follows finite differences. ``left_changed``: what of torch's global state the
    backward did not leave as it found it. ``differentiated``: whether autograd has judged a case.
    """

    notes: dict[str, str] = field(default_factory=dict)
    judged: set[str] = field(default_factory=set)
    differenced: set[str] = field(default_factory=set)
    left_changed: set[str] = field(default_factory=set)
    differentiated: bool = False


@dataclass
class Caller:
    """Calls a pair and its judge."""

    pair: Pair
    oracle: Oracle
    skip: frozenset[str] = frozenset()
    learned: Learned = field(default_factory=Learned)

    @property
    def backward(self) -> str:
        return self.pair.backward_name

    def learning(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the function returns, which may run apart: what it learned comes back with it."""

        def apart() -> tuple[T, Learned]:
            return function(*arguments), self.learned

        value, self.learned = forked(apart)
        return value

    def call(self, case: Case) -> Call:
        """The forward's call, on tensors of its own: the caller's are not to be spoiled."""
        arguments = copied(case.arguments)
        with torch.no_grad():
            result = self.pair.call(arguments)
        fields = self.pair.fields(result)
        outputs = {name: fields[name].detach() for name in self.pair.outputs}
        return Call(arguments, result, fields, case.upstreams(outputs))

    def gradients(
        self, call: Call, upstreams: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """The backward's gradients by the names of the leaves, and None where it returns none."""
        given = call.upstreams if upstreams is None else upstreams
        if self.skip & WAIVED:
            call, given = self._of_its_own(call, given)
        try:
            with global_state_kept(self.learned.left_changed):
                returned = by_leaf(self.pair.gradients(call.arguments, call.result, given))
            gradients = {name: dense(gradient) for name, gradient in returned.items()}
        except PairError:
            raise
        except Exception as error:
            message = f"{self.backward} raises {type_name(error)}: {first_line(error)}"
            raise BackwardRaises(message) from error
        return gradients

    def _of_its_own(
        self, call: Call, upstreams: Mapping[str, Tensor]
    ) -> tuple[Call, Mapping[str, Tensor]]:
        """A call that a backward may write to: the next one gets another."""
        arguments, upstreams = copied(call.arguments), copied(upstreams)
        if isinstance(self.pair, AutogradPair):  # its graph may be freed
            return self.call_on(arguments, upstreams), upstreams
        fields = copied({**call.fields})
        result = (
            fields["out"] if isinstance(call.result, Tensor) else call.result._replace(**fields)
        )
        return Call(arguments, result, fields, dict(upstreams)), upstreams

    def call_on(self, arguments: dict[str, Any], upstreams: Mapping[str, Tensor]) -> Call:
        with torch.no_grad():
            result = self.pair.call(arguments)
        return Call(arguments, result, self.pair.fields(result), dict(upstreams))

    def judge(self, arguments: Mapping[str, Any], upstreams: Mapping[str, Tensor]) -> Judge:
        if self.oracle.differentiated is not None:
            judge = Autograd(
                self.oracle.differentiated,
                arguments,
                upstreams,
                graphless_is_zero=self.learned.differentiated,
            )
            try:
                judge.expected  # noqa: B018  # whether autograd sees through this call
            except Undifferentiable:
                pass
            except Exception:
                if self.learned.differentiated and not self.oracle.confirmed:
                    raise  # the case is the reason, not the forward
            else:
                if self.oracle.confirmed:
                    differences = self.oracle.differences(arguments, upstreams)
                    if not all(
                        differences.confirms(name, value, torch.float32)
                        for name, value in judge.expected.items()
                    ):
                        return differences
                self.learned.differentiated = True
                return judge
        return self.oracle.differences(arguments, upstreams)


def dense(gradient: Any) -> Any:
    if not isinstance(gradient, Tensor) or gradient.layout == torch.strided:
        return gradient
    if gradient.layout == torch.sparse_coo:
        indices = sparse_indices(gradient)
        sizes = torch.tensor(gradient.shape[: len(indices)], device=indices.device)[:, None]
        if ((indices < 0) | (indices >= sizes)).any():  # torch would write there
            raise IndexError("an index of a sparse gradient is out of bounds")
    return gradient.to_dense()


def type_name(value: object) -> str:
    return type(value).__name__


def first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
