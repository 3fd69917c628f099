"""The smallest input that still fails, and the code that shows it."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backprop_ops.checking.acceptance import accepts
from backprop_ops.checking.autograd_pair import AutogradPair
from backprop_ops.checking.case import Case, Shared, Surrounded, UpstreamMade
from backprop_ops.checking.judging import Autograd
from backprop_ops.checking.properties import Call, Finding, Inspector
from backprop_ops.checking.sizing import cut, elements, groups, size_of
from backprop_ops.leaves import replaced
from backprop_ops.pair import Pair

MOST_TRIES = 120
MOST_SECONDS = 5.0  # of the processor
MOST_PRINTED = 200  # elements, as text
MOST_ELEMENTS = 2**14  # of a case that is tried so often


def shrunk(inspector: Inspector, case: Case, finding: Finding) -> tuple[Case, Finding]:
    """The case made smaller for as long as the same property fails, and how it fails there.

    Greedy: sizes down, values towards small integers, the upstream towards one-hot.
    """
    quiet = inspector.quiet()

    def fails(candidate: Case) -> Finding | None:
        try:
            if not accepts(inspector.pair, candidate.arguments):
                return None
            for found in quiet.findings(candidate):
                same = found.property == finding.property and found.input == finding.input
                if same and ("nan" in found.message) == ("nan" in finding.message):
                    return found
        except Exception:  # made something that is no case at all
            return None
        return None

    tries, started = 0, time.process_time()
    if finding.property == "state" or elements(case.arguments) > MOST_ELEMENTS:
        return case, finding
    improved = True
    while improved:
        improved = False
        for candidate in _candidates(inspector.pair, case):
            tries += 1
            if tries > MOST_TRIES or time.process_time() - started > MOST_SECONDS:
                return case, finding
            found = fails(candidate)
            if found is not None:
                case, finding, improved = candidate, found, True
                break
    return case, finding


def _candidates(pair: Pair, case: Case) -> Iterator[Case]:
    """Cases that are simpler by one step, the largest steps first."""
    arguments = case.arguments
    for group in groups(arguments):
        size = size_of(arguments, group[0])
        for part in [group, *([place] for place in group if group[1:])]:
            for other in sorted({1, 2, size // 2, size - 1}):
                if 0 < other < size:
                    yield case.of(cut(arguments, part, other))
    if not any(change.makes_upstreams for change in case.changes):
        for make in (_first_hot, torch.ones_like):
            yield replace(case, changes=(UpstreamMade("simpler", make), *case.changes))
    for name, leaf in pair.leaves(arguments).items():
        simpler = [torch.zeros_like(leaf), torch.ones_like(leaf), leaf.round()]
        simpler += [(leaf * 10).round() / 10]
        for i in range(leaf.numel() if leaf.numel() <= 8 else 0):
            for number in (0.0, 1.0):
                changed = leaf.detach().clone(memory_format=torch.contiguous_format)
                changed.view(-1)[i] = number
                simpler.append(changed)
        for values in simpler:
            if _complexity(values) < _complexity(leaf) and leaf.is_contiguous():
                yield case.of(replaced(arguments, {name: values}))


def _complexity(x: Tensor) -> float:
    """Less for numbers that are easier to read: digits after the point, then size, zero least."""
    x = x.detach().double()
    digits = sum((torch.where((x * 10**d).round() == x * 10**d, 0.0, 1.0)).sum() for d in (0, 1, 6))
    return float(10 * digits + (x != 0).sum() + (x.abs() > 1).sum())


def _first_hot(upstream: Tensor) -> Tensor:
    hot = torch.zeros_like(upstream, memory_format=torch.contiguous_format)
    hot.view(-1)[:1] = 1
    return hot


def code(inspector: Inspector, case: Case, finding: Finding) -> str:
    """Code to be pasted that calls the two functions, and what the gradients should have been."""
    pair, call = inspector.pair, inspector.call(case)
    if elements(case.arguments) > MOST_PRINTED:
        return f"# {elements(case.arguments)} elements: check again with the seed of this report"
    if isinstance(pair, AutogradPair):
        return _autograd_code(pair, call)
    by_autograd = (
        finding.property in ("value", "layout", "linearity", "zero", "count", "shape")
        and inspector.oracle.differentiated is not None
        and inspector.oracle.compared is None
        and not inspector.oracle.on_purpose
        and isinstance(inspector.judge(call.arguments, call.upstreams), Autograd)
        and not any(isinstance(change, Shared) for change in case.changes)
    )
    requiring = any(isinstance(c, Surrounded) and c.requiring for c in case.changes)
    needing = by_autograd or requiring
    leaves = pair.leaves(call.arguments)
    lines = ["import torch", *_imports(pair)]
    for name in (*pair.inputs, *pair.options):
        needs = needing and name in leaves
        lines.append(f"{name} = {literal(call.arguments[name])}{'.requires_grad_()' * needs}")
    given = ", ".join([*pair.inputs, *(f"{name}={name}" for name in pair.options)])
    lines.append(f"result = {pair.name}({given})")
    lines += [f"d{name} = {literal(upstream)}" for name, upstream in call.upstreams.items()]

    def value(name: str) -> str:
        if name in call.fields and name not in call.arguments:
            return f"result.{name}" if isinstance(call.result, tuple) else "result"
        return name

    asked = inspect.signature(pair.backward).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    passed = [f"{p.name}={value(p.name)}" if p.kind is keyword else value(p.name) for p in asked]
    backward = f"{pair.name}_backward({', '.join(passed)})"
    if finding.property == "purity":
        written = value(finding.message.rpartition(" writes to ")[2])
        return "\n".join(
            [*lines, f"before = {written}.clone()", backward, f"print(before, {written})"]
        )
    lines.append(f"print({backward})")
    if finding.property in ("repeat", "state", "alias"):
        lines.append(f"print({backward})")
    if by_autograd and not any(isinstance(call.arguments[n], (tuple, list)) for n in pair.inputs):
        outputs, upstreams = (
            "[" + ", ".join(names) + "]"
            for names in (map(value, pair.outputs), (f"d{name}" for name in call.upstreams))
        )
        wanted = f"[{', '.join(leaves)}]"
        lines.append(
            f"print(torch.autograd.grad({outputs}, {wanted}, {upstreams}, allow_unused=True))"
        )
    return "\n".join(lines)


def _autograd_code(pair: AutogradPair, call: Call) -> str:
    """The same for a function whose backward is autograd's."""
    is_function = isinstance(getattr(pair.function, "__self__", None), type)
    leaves = pair.leaves(call.arguments)
    lines = ["import torch", f"# {pair.name}: as it was given to check"]
    for name in (*pair.inputs, *pair.options):
        lines.append(f"{name} = {literal(call.arguments[name])}")
        lines += [f"{name}.requires_grad_()"] * (name in leaves)
    given = ", ".join([*pair.inputs, *(f"{name}={name}" for name in pair.options)])
    lines.append(f"result = {pair.name}{'.apply' * is_function}({given})")
    upstreams = ", ".join(literal(upstream) for upstream in call.upstreams.values())
    lines.append(f"print(torch.autograd.grad(result, [{', '.join(leaves)}], [{upstreams}]))")
    return "\n".join(lines)


def _imports(pair: Pair) -> list[str]:
    modules: dict[str, list[str]] = {}
    lines = []
    for name, function in ((pair.name, pair.forward), (f"{pair.name}_backward", pair.backward)):
        module = getattr(function, "__module__", None) or "__main__"
        own = getattr(function, "__qualname__", "")
        if module == "__main__" or not own.isidentifier():  # not to be had by importing
            lines.append(f"# {name}: as it was given to check")
        else:
            modules.setdefault(module, []).append(own if own == name else f"{own} as {name}")
    return [f"from {module} import {', '.join(names)}" for module, names in modules.items()] + lines


def literal(value: Any) -> str:
    """Code for an argument: a tensor with its numbers, precision and strides."""
    if isinstance(value, (tuple, list)):
        parts = ", ".join(literal(part) for part in value)
        return f"[{parts}]" if isinstance(value, list) else f"({parts},)"
    if not isinstance(value, Tensor):
        return repr(value)
    plain = value.dtype in (torch.float32, torch.int64, torch.bool) and value.numel()
    dtype = "" if plain else f", dtype={value.dtype}"
    if 0 in value.stride() and value.numel():
        once = value[tuple(slice(1) if stride == 0 else slice(None) for stride in value.stride())]
        return f"torch.tensor({_numbers(once)}{dtype}).expand({tuple(value.shape)})"
    text = f"torch.tensor({_numbers(value)}{dtype})"
    if not value.numel():
        return f"torch.zeros({tuple(value.shape)}{dtype})"
    if value.is_contiguous():
        return text
    strides = f"{tuple(value.shape)}, {value.stride()}, dtype={value.dtype}"
    return f"torch.empty_strided({strides}).copy_({text})"


def _numbers(value: Tensor) -> str:
    return repr(value.tolist()).replace("inf", 'float("inf")').replace("nan", 'float("nan")')
