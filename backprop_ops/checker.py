"""`check`: is a hand-written backward right, on every input and not on one random one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backprop_ops.comparison import Comparison
from backprop_ops.diagnosis import likely_mistake
from backprop_ops.judging import Judge, autograd, call_forward
from backprop_ops.pair import Pair, PairError
from backprop_ops.variations import Case, sample_case, variations


@dataclass(frozen=True)
class Failure:
    """One thing that is wrong with a backward.

    ``property``: what does not hold. ``variation``: how the case differs from the caller's own
    sample, None where it is the sample. ``input``: whose gradient it is. ``mistake``: the key of
    the likely mistake. ``reproduce``: code that shows it.
    """

    property: str
    variation: str | None
    input: str | None
    message: str
    mistake: str | None
    reproduce: str

    def __str__(self) -> str:
        lines = [f"{self.property}: {self.message}"]
        if self.variation is not None:
            lines.append(f"holds on your sample; fails when {self.variation}")
        if self.mistake is not None:
            lines.append(f"likely mistake ({self.mistake})")
        return "\n".join([*lines, f"reproduce: {self.reproduce}"])


@dataclass(frozen=True)
class Report:
    """What `check` found; true if nothing is wrong."""

    name: str
    comparisons: tuple[Comparison, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    seed: int

    @property
    def ok(self) -> bool:
        return not self.failures

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        head = f"{self.name}: {'correct' if self.ok else 'wrong'} (seed {self.seed})"
        table = [f"  {comparison}" for comparison in self.comparisons]
        return "\n".join(
            [head, *table, *map(str, self.failures), *map("note: {}".format, self.notes)]
        )


class BackwardError(AssertionError):
    """A backward that `assert_backward` found wrong; ``report`` says how."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


def check(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    seed: int | None = None,
    skip: Iterable[str] = (),
) -> Report:
    """Check ``backward`` against ``forward`` on one ordinary sample and on harder ones made of it.

    ``args``: the forward's positional arguments, ``kwargs`` its keyword-only ones. ``seed``: of
    what is drawn; a fresh one unless given, and the report states it. ``skip``: properties and
    variations not to try. Raises PairError where the two are no pair, TypeError or ValueError
    where the sample is none.
    """
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple of {_name(forward)}'s arguments, came {_type(args)}")
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    generator = torch.Generator().manual_seed(seed)
    pair, arguments = _bind(forward, backward, args, kwargs or {})
    sample = sample_case(pair, arguments, generator)
    inspection = _Inspection(pair, frozenset(skip))
    inspection.run(sample)
    comparisons = inspection.comparisons(sample)
    # What fails on the sample itself fails on most variations of it too.
    if not inspection.failures:
        for case in variations(pair, sample, generator):
            inspection.run(case)
    name = f"{pair.name}_backward"
    return Report(name, comparisons, tuple(inspection.failures), tuple(inspection.notes), seed)


def assert_backward(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    seed: int | None = None,
    skip: Iterable[str] = (),
) -> None:
    """Raise BackwardError where `check`, with the same arguments, finds something wrong."""
    report = check(forward, backward, args, kwargs, seed=seed, skip=skip)
    if not report:
        raise BackwardError(report)


def _bind(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[Pair, dict[str, Any]]:
    """The pair and the sample, every argument by name; refused where one is unfit."""
    name = _name(forward)
    try:
        result = forward(*args, **kwargs)
    except Exception as error:
        raise ValueError(f"{name} raises {_type(error)} on the sample: {error}") from error
    record = type(result) if isinstance(result, tuple) and hasattr(result, "_fields") else None
    pair = Pair.bind(forward, backward, record)
    fields = pair.fields(result)
    for output in pair.outputs:
        value = fields[output]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            came = value.dtype if isinstance(value, Tensor) else _type(value)
            raise ValueError(f"{name}'s output {output!r} must be a floating Tensor, came {came}")
        if not value.isfinite().all():
            raise ValueError(f"{name}'s output {output!r} must be finite on the sample")
    arguments = pair.arguments(args, kwargs)
    if any(isinstance(value, Tensor) and value.is_complex() for value in arguments.values()):
        raise ValueError(f"{name}: complex inputs are not supported")
    if not pair.slots(arguments):
        raise ValueError(f"{name}: the sample has no floating Tensor to take a gradient of")
    return pair, arguments


@dataclass
class _Inspection:
    """The properties of a pair, asked of one case after the other."""

    pair: Pair
    skip: frozenset[str]
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def comparisons(self, sample: Case) -> tuple[Comparison, ...]:
        """The rows of the report: each gradient against autograd's, on the caller's sample."""
        sample = _own(sample)
        try:
            result = call_forward(self.pair, sample.arguments)
            gradients = self.pair.gradients(sample.arguments, result, sample.upstreams)
        except Exception:  # reported as a failure of `call` or `count`
            return ()
        dtype = next(iter(sample.upstreams.values())).dtype
        expected = autograd(self.pair, sample.arguments, sample.upstreams, dtype)
        return tuple(
            Comparison.of(f"d{name}", gradients[name], value)
            for name, value in expected.items()
            if isinstance(gradients.get(name), Tensor)
        )

    def run(self, case: Case) -> None:
        """Ask in the order in which a person would debug; the first answer ends the case."""
        if case.variation is not None and case.variation in self.skip:
            self.notes.append(f"skipped: {case.variation}")
            return
        try:
            self._ask(case)
        except _Found as found:
            self.failures.append(found.failure)

    def _ask(self, case: Case) -> None:
        pair = self.pair
        case = _own(case)
        arguments, upstreams = case.arguments, case.upstreams
        result = call_forward(pair, arguments)
        given = {**arguments, **pair.fields(result)}
        given |= {f"d{name}": upstream for name, upstream in upstreams.items()}
        before = {name: v.clone() for name, v in given.items() if isinstance(v, Tensor)}
        try:
            gradients = pair.gradients(arguments, result, upstreams)
        except PairError as error:
            self._fail(case, "count", None, str(error), "wrong-count")
        except Exception as error:
            self._fail(case, "call", None, f"{pair.name}_backward raises {_type(error)}: {error}")
        self._contract(case, gradients)
        self._purity(case, given, before)
        self._alias(case, given, gradients)
        values = {n: g for n, g in gradients.items() if isinstance(g, Tensor)}
        copies = {name: value.clone() for name, value in values.items()}
        self._zero(case, result)
        for name, copy in copies.items():
            if not _same_bytes(copy, values[name]):
                self._fail(case, "alias", name, f"a later call overwrites d{name}", "aliased")
        judge = Judge(pair, arguments, upstreams)
        self._linearity(case, result, judge, values)
        self._values(case, judge, values)
        for name, again in pair.gradients(arguments, result, upstreams).items():
            if name in values and judge.differ(name, values[name], again):
                message = f"d{name} is another at a second call"
                self._fail(case, "repeat", name, message, "nondeterministic")

    def _contract(self, case: Case, gradients: Mapping[str, Any]) -> None:
        for name, gradient in gradients.items():
            value = case.arguments[name]
            if not isinstance(value, Tensor):
                continue
            if not value.is_floating_point():
                if gradient is not None:
                    self._fail(
                        case,
                        "count",
                        name,
                        f"d{name} must be None: {name} is no floating Tensor",
                        "wrong-count",
                    )
                continue
            if gradient is None:
                reached = autograd(self.pair, case.arguments, case.upstreams, torch.float64)[name]
                if reached.any():
                    self._fail(
                        case,
                        "count",
                        name,
                        f"d{name} is None, and the output depends on {name}",
                        "none-gradient",
                    )
            elif not isinstance(gradient, Tensor):
                self._fail(
                    case,
                    "count",
                    name,
                    f"d{name} must be a Tensor, came {_type(gradient)}",
                    "wrong-count",
                )
            elif gradient.shape != value.shape:
                message = (
                    f"d{name} has shape {tuple(gradient.shape)}, {name} has {tuple(value.shape)}"
                )
                self._fail(
                    case,
                    "shape",
                    name,
                    message,
                    "missing-reduction" if gradient.numel() > value.numel() else "shape",
                )
            elif gradient.dtype != value.dtype:
                self._fail(
                    case,
                    "dtype",
                    name,
                    f"d{name} is {gradient.dtype}, {name} is {value.dtype}",
                    "dtype",
                )

    def _purity(self, case: Case, given: Mapping[str, Any], before: Mapping[str, Tensor]) -> None:
        for name, copy in before.items():
            if not _same_bytes(given[name], copy):
                role = (
                    "input"
                    if name in case.arguments
                    else "upstream"
                    if name.removeprefix("d") in case.upstreams and name not in self.pair.kept
                    else "kept"
                )
                self._fail(
                    case,
                    "purity",
                    None,
                    f"{self.pair.name}_backward writes to {name}",
                    f"mutates-{role}",
                )

    def _alias(self, case: Case, given: Mapping[str, Any], gradients: Mapping[str, Any]) -> None:
        upstreams = {f"d{output}" for output in self.pair.outputs}
        owners = {
            value.untyped_storage().data_ptr(): name
            for name, value in given.items()
            if isinstance(value, Tensor) and name not in upstreams and value.numel()
        }
        for name, gradient in gradients.items():
            if isinstance(gradient, Tensor) and gradient.numel():
                owner = owners.get(gradient.untyped_storage().data_ptr())
                if owner is not None:
                    self._fail(
                        case, "alias", name, f"d{name} shares its memory with {owner}", "aliased"
                    )

    def _zero(self, case: Case, result: Any) -> None:
        zeros = {name: torch.zeros_like(u) for name, u in case.upstreams.items()}
        for name, gradient in self.pair.gradients(case.arguments, result, zeros).items():
            if isinstance(gradient, Tensor) and gradient[gradient.isfinite()].any():
                message = f"d{name} of a zero upstream is not zero"
                self._fail(case, "zero", name, message, "upstream-ignored")

    def _linearity(
        self, case: Case, result: Any, judge: Judge, gradients: Mapping[str, Tensor]
    ) -> None:
        doubled = {name: u * 2 for name, u in case.upstreams.items()}
        for name, twice in self.pair.gradients(case.arguments, result, doubled).items():
            if isinstance(twice, Tensor) and judge.differ(name, gradients[name], twice / 2):
                message = f"d{name} of twice the upstream is not twice d{name}"
                self._fail(case, "linearity", name, message, "upstream-ignored")

    def _values(self, case: Case, judge: Judge, gradients: Mapping[str, Tensor]) -> None:
        masks = {name: judge.wrong(name, gradient) for name, gradient in gradients.items()}
        agreeing = [f"d{name}" for name, mask in masks.items() if not mask.any()]
        for name, mask in masks.items():
            if not mask.any():
                continue
            value, gradient = judge.expected[name], gradients[name].double()
            error = ((gradient - value).abs() / judge.units[name]).nan_to_num(torch.inf)
            at = tuple(int(i) for i in torch.unravel_index((error * mask).argmax(), value.shape))
            message = (
                f"d{name}{list(at) if at else ''} is {gradient[at].item():.6g}, "
                f"autograd says {value[at].item():.6g}"
            )
            if agreeing:
                message += f"; {' and '.join(agreeing)} {'agree' if agreeing[1:] else 'agrees'}"
            if case.same_values:
                of_upstream = "the upstream" in str(case.variation)
                mistake = "upstream-layout" if of_upstream else None
                self._fail(case, "layout", name, message, mistake)
            self._fail(case, "value", name, message, likely_mistake(judge, name, gradients[name]))

    def _fail(
        self,
        case: Case,
        property_: str,
        input_: str | None,
        message: str,
        mistake: str | None = None,
    ) -> None:
        if property_ in self.skip:
            return
        code = _code(self.pair, case)
        raise _Found(Failure(property_, case.variation, input_, message, mistake, code))


class _Found(Exception):  # noqa: N818  # ends a case, and is no error
    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


def _own(case: Case) -> Case:
    """The case with tensors of its own, in the same layouts: the caller's are not to be spoiled."""

    def copy(value: Any) -> Any:
        # What repeats its elements cannot be written to anyway.
        if not isinstance(value, Tensor) or 0 in value.stride():
            return value
        empty = torch.empty_strided(
            value.shape, value.stride(), dtype=value.dtype, device=value.device
        )
        return empty.copy_(value.detach())

    return case._replace(
        arguments={name: copy(value) for name, value in case.arguments.items()},
        upstreams={name: copy(value) for name, value in case.upstreams.items()},
    )


def _same_bytes(x: Tensor, y: Tensor) -> bool:
    """Equal in every bit, nan and the sign of zero included."""
    x, y = (t.detach().flatten().clone() for t in (x, y))
    return torch.equal(x.view(torch.uint8), y.view(torch.uint8))


def _code(pair: Pair, case: Case) -> str:
    def literal(value: Any) -> str:
        if not isinstance(value, Tensor):
            return repr(value)
        dtype = (
            ""
            if value.dtype in (torch.float32, torch.int64, torch.bool)
            else f", dtype={value.dtype}"
        )
        return f"torch.tensor({value.tolist()}{dtype})"

    args = "".join(f"{literal(case.arguments[name])}, " for name in pair.inputs)
    options = ", ".join(f"{name!r}: {literal(case.arguments[name])}" for name in pair.options)
    return f"check({pair.name}, {_name(pair.backward)}, ({args.rstrip()}), {{{options}}})"


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _type(value: object) -> str:
    return type(value).__name__
