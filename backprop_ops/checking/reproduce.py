"""The code of a failure, to be pasted: it ends in an assertion that fails.

`reproduction` runs the code before it is printed. The assertion holds as soon as the right gradient
stands in the backward's place.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_ops._torch import as_written
from backprop_ops.checking.autograd_pair import AutogradPair
from backprop_ops.checking.calling import Call
from backprop_ops.checking.case import Case, Shared, Surrounded
from backprop_ops.checking.finding import Finding
from backprop_ops.checking.global_state import global_state_kept
from backprop_ops.checking.inspector import Inspector
from backprop_ops.checking.isolation import forked
from backprop_ops.checking.judging import Autograd
from backprop_ops.checking.same import ALLOWED_APART
from backprop_ops.checking.sizing import elements
from backprop_ops.leaves import replaced, tensors
from backprop_ops.pair import Pair

MOST_PRINTED = 200  # elements, as text
CALLS = 20  # of a backward that draws or races
HERE_ALONE = "# It fails in `check` alone, after other calls."

GLOBALS = {
    "the default dtype": "torch.get_default_dtype()",
    "the gradient mode": "torch.is_grad_enabled()",
    "the number of threads": "torch.get_num_threads()",
    "the deterministic mode": "torch.get_deterministic_debug_mode()",
}
"""How each global state is read."""
GENERATORS = {
    "torch's": ("import torch", "torch.manual_seed", "torch.rand(3).tolist()"),
    "Python's": ("import random", "random.seed", "random.random()"),
    "numpy's": ("import numpy", "numpy.random.seed", "numpy.random.rand()"),
}
"""What imports, seeds and draws from each global generator."""


def reproduction(inspector: Inspector, case: Case, finding: Finding) -> str:
    """Code that calls the two functions, and an assertion that fails."""
    drawn: dict[str, str] = {}
    if elements(case.arguments) > MOST_PRINTED:
        case, drawn = _drawn(inspector, case, finding)
        if not drawn:
            count = elements(case.arguments)
            return f"# {count} elements: check again with the seed of this report"
    of_a_value = finding.property in ("value", "layout") and finding.at is not None
    for by_autograd in (True, False) if of_a_value else (False,):
        code = _Code(inspector, inspector.call(case), case, drawn)
        if by_autograd and not code.is_differentiated:
            continue
        text = "\n".join([*code.setup(by_autograd), *code.proof(finding, by_autograd)])
        if fails(text, inspector.pair):
            return text
    return f"{text}\n{HERE_ALONE}"


def fails(text: str, pair: Pair) -> bool:
    """Whether code fails, with the functions themselves where it cannot import them."""
    function = pair.function if isinstance(pair, AutogradPair) else pair.forward
    owner = getattr(function, "__self__", None)
    forward, backward = _names(pair)
    names = {forward: owner if isinstance(owner, type) else function, backward: pair.backward}

    def run() -> None:
        with global_state_kept(), torch.random.fork_rng(), torch.enable_grad():
            exec(compile(text, "<reproduce>", "exec"), names)

    try:
        forked(run)
    except Exception:  # the assertion, the backward's own, or a crash
        return True
    return False


@dataclass(frozen=True)
class _Code:
    """The code of one call. ``drawn``: the text of the tensors that are drawn in it, by name."""

    inspector: Inspector
    call: Call
    case: Case
    drawn: Mapping[str, str]

    @property
    def pair(self) -> Pair:
        return self.inspector.pair

    @cached_property
    def leaves(self) -> dict[str, Tensor]:
        return self.pair.leaves(self.call.arguments)

    @cached_property
    def is_differentiated(self) -> bool:
        """Whether autograd of the forward itself says what is right, in code as in the check."""
        oracle = self.inspector.oracle
        return (
            oracle.differentiated is not None
            and not oracle.confirmed
            and oracle.compared is None
            and not oracle.on_purpose
            and isinstance(self.inspector.judge(self.call.arguments, self.call.upstreams), Autograd)
            and not any(isinstance(change, Shared) for change in self.case.changes)
            and not any(
                isinstance(self.call.arguments[name], (tuple, list)) for name in self.pair.inputs
            )
        )

    def setup(self, by_autograd: bool) -> list[str]:
        """The functions, the arguments, the forward's call and the upstreams."""
        pair, arguments = self.pair, self.call.arguments
        attached = isinstance(pair, AutogradPair)
        lines = ["import torch", *_imports(pair)]
        shared = {id(x): name for name, x in reversed([*tensors(arguments).items()])}
        for name in (*pair.inputs, *pair.options):
            value = arguments[name]
            first = shared.get(id(value), name)
            text = first if first != name else self.drawn.get(name) or literal(value)
            lines.append(f"{name} = {text}")
            if (by_autograd or attached) and name in self.leaves and first == name:
                lines[-1] += ".requires_grad_()"
        lines.append(f"result = {self.forward()}")
        lines += [f"d{name} = {literal(u)}" for name, u in self.call.upstreams.items()]
        return lines

    def forward(self) -> str:
        pair = self.pair
        apply = isinstance(pair, AutogradPair) and isinstance(
            getattr(pair.function, "__self__", None), type
        )
        given = [*pair.inputs, *(f"{name}={name}" for name in pair.options)]
        return f"{_names(pair)[0]}{'.apply' * apply}({', '.join(given)})"

    def value(self, name: str) -> str:
        """An argument, or a field of the result."""
        if name in self.call.fields and name not in self.call.arguments:
            several = isinstance(self.call.result, tuple)
            if isinstance(self.pair, AutogradPair):
                several = len(self.pair.outputs) > 1
                place = self.pair.outputs.index(name)
                return f"result[{place}]" if several else "result"
            return f"result.{name}" if several else "result"
        return name

    def backward(self, upstream: str = "{}") -> str:
        """The backward's call; ``upstream``: what is made of each upstream in it."""
        pair = self.pair
        made = {f"d{name}": upstream.format(f"d{name}") for name in pair.outputs}
        if isinstance(pair, AutogradPair):
            return self.autograd(made)
        asked = inspect.signature(pair.backward).parameters.values()
        passed = []
        for parameter in asked:
            text = made.get(parameter.name) or self.value(parameter.name)
            keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
            passed.append(f"{parameter.name}={text}" if keyword else text)
        return f"{_names(pair)[1]}({', '.join(passed)})"

    def autograd(self, made: Mapping[str, str]) -> str:
        outputs = ", ".join(self.value(name) for name in self.pair.outputs)
        return (
            f"torch.autograd.grad([{outputs}], [{', '.join(self.leaves)}], "
            f"[{', '.join(made.values())}], retain_graph=True, allow_unused=True)"
        )

    @cached_property
    def targets(self) -> str | None:
        """The names of what the backward returns; None where it raises, or returns other counts."""
        if isinstance(self.pair, AutogradPair):
            return ", ".join(f"d{leaf}" for leaf in self.leaves) + "," * (len(self.leaves) == 1)
        slots = self.pair.slots(self.call.arguments)
        values = {**self.call.arguments, **self.call.fields}
        values |= {f"d{name}": u.clone() for name, u in self.call.upstreams.items()}
        asked = inspect.signature(self.pair.backward).parameters.values()
        keyword = inspect.Parameter.KEYWORD_ONLY

        def count() -> int | None:
            """How many it returns; None of a gradient that is alone."""
            with global_state_kept():
                returned = self.pair.backward(
                    *(values[p.name] for p in asked if p.kind is not keyword),
                    **{p.name: values[p.name] for p in asked if p.kind is keyword},
                )
            return len(returned) if isinstance(returned, tuple) else None

        try:
            returned = forked(count)
        except Exception:  # which the code shows
            return None
        if returned is None:
            return f"d{slots[0]}" if len(slots) == 1 else None
        for names in (slots, self.pair.inputs):
            if len(names) == returned:
                return ", ".join(f"d{name}" for name in names) + "," * (len(names) == 1)
        return None

    def proof(self, finding: Finding, by_autograd: bool) -> list[str]:
        """The backward's call and the assertion, for the property that does not hold."""
        name = finding.input and f"d{finding.input}"
        called = f"{self.targets} = {self.backward()}" if self.targets else self.backward()
        if finding.property == "value" and finding.kind == "forward":
            return self._of_an_output(finding)
        if self.targets is None or finding.property == "call":
            return self._of_the_count(finding)
        if finding.property in ("value", "layout") and finding.at is not None:
            return self._of_a_value(finding, f"{name}", called, by_autograd)
        if finding.property == "purity":
            return self._of_purity(finding, called)
        if finding.property == "alias":
            return self._of_an_alias(finding, f"{name}", called)
        if finding.property == "state":
            return self._of_state(finding, name, called)
        told = {
            "count": ("is None", f"{name} is not None"),
            "shape": ("has another shape", f"{name}.shape == {finding.input}.shape"),
            "dtype": ("has another dtype", f"{name}.dtype == {finding.input}.dtype"),
        }
        if finding.property in told:
            says, holds = told[finding.property]
            sequence, bracket, _ = str(name).partition("[")
            if bracket and finding.property == "count":
                count = len(self.call.arguments[sequence.removeprefix("d")])
                return [called, f'assert len({sequence}) == {count}, f"{name} is missing"']
            if finding.kind == "must be None":
                says, holds = "is not None", f"{name} is None"
            return [called, f'assert {holds}, f"{name} {says}: {{{name}}}"']
        if finding.property == "zero":
            zeros = f"{self.targets} = {self.backward('torch.zeros_like({})')}"
            before = [called] if finding.mistake == "state" else []
            there = f"{name} is not None and " * (finding.mistake == "none-gradient")
            text = f"{name} of a zero upstream is {{{name}}}"
            return [*before, zeros, f'assert {there}not {name}.any(), f"{text}"']
        if finding.property == "linearity":
            return [
                called,
                f"once = {name}.clone()",
                f"{self.targets} = {self.backward('2 * {}')}",
                f"assert torch.allclose({name}, 2 * once), "
                f'f"{name} of twice the upstream is {{{name}}}, twice {name} is {{2 * once}}"',
            ]
        return self._of_two_calls(f"{name}", called)

    def _of_the_count(self, finding: Finding) -> list[str]:
        if finding.property == "call" or finding.kind is None:
            return [self.backward()]
        count = len(self.pair.slots(self.call.arguments))
        return [
            f"gradients = {self.backward()}",
            "gradients = gradients if isinstance(gradients, tuple) else (gradients,)",
            f'assert len(gradients) == {count}, f"{count} gradients, not {{len(gradients)}}"',
        ]

    def _of_a_value(self, finding: Finding, name: str, called: str, by_autograd: bool) -> list[str]:
        entry = f"{name}{(finding.at and list(finding.at)) or ''}"
        if not by_autograd:
            return [called, *_compared(entry, entry, number(finding.right), finding)]
        rights = ", ".join(f"right_d{leaf}" for leaf in self.leaves)
        made = {f"d{output}": f"d{output}" for output in self.pair.outputs}
        return [
            called,
            f"{rights}{',' * (len(self.leaves) == 1)} = {self.autograd(made)}",
            *_compared(entry, entry, f"right_{entry}.item()", finding),
        ]

    def _of_an_output(self, finding: Finding) -> list[str]:
        place = (finding.at and list(finding.at)) or ""
        value = f"{self.value(str(finding.of))}{place}"
        return _compared(f"{finding.of}{place}", value, number(finding.right), finding)

    def _of_purity(self, finding: Finding, called: str) -> list[str]:
        written = self.value(str(finding.of))
        if finding.kind == "requires grad":
            return [called, f'assert not {written}.requires_grad, "{written} requires a gradient"']
        call = f"result = {self.forward()}" if finding.kind == "forward" else called
        text = f"{written} was {{before}}, is {{{written}}}"
        if isinstance(self.call.arguments.get(written), (list, tuple, dict)):
            before, same = f"copy.deepcopy({written})", f"{written} == before"
            return ["import copy", f"before = {before}", call, f'assert {same}, f"{text}"']
        return [
            f"before = {written}.detach().clone()",
            call,
            f'assert torch.equal({written}, before), f"{text}"',
        ]

    def _of_an_alias(self, finding: Finding, name: str, called: str) -> list[str]:
        def memory(x: str) -> str:
            return f"{x}.untyped_storage().data_ptr()"

        if finding.kind == "overwritten":
            return [
                called,
                f"first, before = {name}, {name}.clone()",
                called,
                f'assert torch.equal(first, before), f"{name} was {{before}}, is {{first}}"',
            ]
        other = "first" if finding.of is None else self.value(finding.of)
        again = ["first = " + name, called] if finding.of is None else []
        whose = "the first one" if finding.of is None else finding.of
        return [
            called,
            *again,
            f'assert {memory(name)} != {memory(other)}, "{name} shares its memory with {whose}"',
        ]

    def _of_two_calls(self, name: str, called: str) -> list[str]:
        return [
            called,
            f"first = {name}.clone()",
            f"for _ in range({CALLS}):",
            f"    {called}",
            f"    {self._same_as_first(name)}",
        ]

    def _same_as_first(self, name: str) -> str:
        """An assertion as strict as `same.apart`."""
        dtypes = {x.dtype for x in self.pair.leaves(self.call.arguments).values()}
        rtol = ALLOWED_APART * max(torch.finfo(dtype).eps for dtype in dtypes)
        return (
            f"assert torch.allclose({name}, first, {rtol:.1e}, 0, equal_nan=True), "
            f'f"{name} was {{first}}, moves by {{({name} - first).abs().max()}}"'
        )

    def _of_state(self, finding: Finding, name: str | None, called: str) -> list[str]:
        if finding.kind == "uninitialised":
            return [
                "torch.use_deterministic_algorithms(True, warn_only=True)  # torch.empty gives nan",
                called,
                f'assert not {name}.isnan().any(), f"{name} is {{{name}}}"',
            ]
        if finding.kind == "left changed":
            read = GLOBALS[str(finding.of)]
            return [
                f"before = {read}",
                called,
                f'assert {read} == before, f"{finding.of} was {{before}}, is {{{read}}}"',
            ]
        if finding.kind == "seeds":
            imports, seed, draw = GENERATORS[str(finding.of)]
            return [
                imports,
                "drawn = []",
                "for seed in (1, 2):",
                f"    {seed}(seed)",
                f"    {called}",
                f"    drawn.append({draw})",
                'assert drawn[0] != drawn[1], f"both seeds draw {drawn[0]}"',
            ]
        surrounded = next((c for c in self.case.changes if isinstance(c, Surrounded)), None)
        if surrounded is None or name is None:
            return self._of_two_calls(name, called) if name else [called]
        same = self._same_as_first(name)
        between = {
            "no_grad": ["with torch.no_grad():", f"    {called}"],
            "requiring": [
                *(f"{leaf}.requires_grad_()" for leaf in self.leaves if "[" not in leaf),
                f"result = {self.forward()}",
                called,
            ],
            "between": [*self._another_call(surrounded), called],
            "written": [
                "with torch.no_grad():",
                *(f"    {leaf}.mul_(0.75)" for leaf in self.leaves),
                called,
            ],
        }
        if surrounded.kind not in between:
            return self._of_two_calls(name, called)
        return [called, f"first = {name}.clone()", *between[surrounded.kind], same]

    def _another_call(self, surrounded: Surrounded) -> list[str]:
        """Forward and backward of other arguments, and the first ones back in their names."""
        if surrounded.other is None or elements(surrounded.other) > MOST_PRINTED:
            return []
        names = [n for n, x in surrounded.other.items() if isinstance(x, (Tensor, tuple, list))]
        ups = [f"d{output}" for output in self.pair.outputs]
        kept = ", ".join([*names, "result", *ups])
        lines = [f"kept = {kept}"]
        lines += [f"{name} = {literal(surrounded.other[name])}" for name in names]
        if isinstance(self.pair, AutogradPair):
            lines += [f"{name}.requires_grad_()" for name in names if name in self.leaves]
        lines.append(f"result = {self.forward()}")
        lines += [
            f"{up} = torch.ones_like({self.value(output)})"
            for up, output in zip(ups, self.pair.outputs, strict=True)
        ]
        return [*lines, self.backward(), f"{kept} = kept"]


def _compared(entry: str, value: str, right: str, finding: Finding) -> list[str]:
    """The assertion on two numbers, which may differ by half of what they do."""
    off = abs(finding.got - finding.right) / 2
    allowed = f"{off:.2g}" if math.isfinite(off) and off else "1e-3"
    return [
        f"got, right = {value}.item(), {right}",
        f"assert abs(got - right) <= {allowed}, "
        f'f"{entry} is {{got:.9g}}, {finding.source} {{right:.9g}}"',
    ]


def _drawn(inspector: Inspector, case: Case, finding: Finding) -> tuple[Case, dict[str, str]]:
    """The case with large tensors drawn from a seed, where that fails too; no text where not."""
    texts: dict[str, str] = {}
    values: dict[str, Any] = {}
    for i, (name, x) in enumerate(tensors(case.arguments).items()):
        if x.numel() <= MOST_PRINTED:
            continue
        of_seed = f"generator=torch.Generator().manual_seed({i})"
        if x.is_floating_point():
            text = f"torch.randn({tuple(x.shape)}, {of_seed}).to({x.dtype})"
        elif x.dtype == torch.bool:
            text = f"torch.rand({tuple(x.shape)}, {of_seed}) < 0.5"
        else:
            bounds = f"{int(x.min())}, {int(x.max()) + 1}"
            text = f"torch.randint({bounds}, {tuple(x.shape)}, {of_seed}).to({x.dtype})"
        texts[name], values[name] = f"({text})", eval(text)
    try:
        smaller = case.of(replaced(case.arguments, values))
        found = inspector.quiet().findings(smaller)
    except Exception:  # the forward does not take them
        return case, {}
    same = any((f.property, f.input) == (finding.property, finding.input) for f in found)
    return (smaller, texts) if same and not any("[" in name for name in texts) else (case, {})


def _names(pair: Pair) -> tuple[str, str]:
    """What the code calls the two functions; a lambda has no name of its own."""
    if pair.name.isidentifier():
        return pair.name, f"{pair.name}_backward"
    return "forward", "backward"


def _imports(pair: Pair) -> list[str]:
    functions = dict(zip(_names(pair), (pair.forward, pair.backward), strict=True))
    if isinstance(pair, AutogradPair):
        function = getattr(pair.function, "__self__", None)
        whole = function if isinstance(function, type) else as_written(pair.function)
        functions = {_names(pair)[0]: whole}
    modules: dict[str, list[str]] = {}
    lines = []
    for name, function in functions.items():
        module = getattr(function, "__module__", None) or "__main__"
        own = getattr(function, "__qualname__", "")
        if module == "__main__" or not own.isidentifier():  # not to be had by importing
            lines.append(f"# put {name} here, as you gave it to check")
        else:
            modules.setdefault(module, []).append(own if own == name else f"{own} as {name}")
    return [f"from {module} import {', '.join(names)}" for module, names in modules.items()] + lines


def literal(value: Any) -> str:
    """Code for an argument: a tensor with its numbers, precision and strides."""
    if isinstance(value, (tuple, list)):
        parts = ", ".join(literal(part) for part in value)
        return f"[{parts}]" if isinstance(value, list) else f"({parts}{',' * (len(value) == 1)})"
    if not isinstance(value, Tensor):
        return repr(value)
    value = value.detach()
    plain = value.dtype in (torch.float32, torch.int64, torch.bool) and value.numel()
    dtype = "" if plain else f", dtype={value.dtype}"
    if not value.numel():
        return f"torch.zeros({tuple(value.shape)}{dtype})"
    if 0 in value.stride():
        once = value[tuple(slice(1) if stride == 0 else slice(None) for stride in value.stride())]
        return f"torch.tensor({_numbers(once)}{dtype}).expand({tuple(value.shape)})"
    text = f"torch.tensor({_numbers(value)}{dtype})"
    if value.is_contiguous():
        return text
    strides = f"{tuple(value.shape)}, {value.stride()}, dtype={value.dtype}"
    return f"torch.empty_strided({strides}).copy_({text})"


def _numbers(value: Tensor) -> str:
    """The numbers with the fewest digits that tell them from others of the precision."""
    if not value.is_floating_point():
        return repr(value.tolist())
    exact = value.flatten().tolist()
    short = list(exact)
    left = set(range(len(exact)))
    for digits in range(1, 17):
        if not left:
            break
        tried = {i: float(f"{exact[i]:.{digits}g}") for i in left}
        rounded = torch.tensor(list(tried.values()), dtype=value.dtype).tolist()
        for (i, candidate), back in zip(tried.items(), rounded, strict=True):
            if back == exact[i]:
                short[i] = candidate
                left.discard(i)
    return _nested(iter(map(number, short)), value.shape)


def _nested(numbers: Any, shape: Iterable[int]) -> str:
    shape = tuple(shape)
    if not shape:
        return str(next(numbers))
    return f"[{', '.join(_nested(numbers, shape[1:]) for _ in range(shape[0]))}]"


def number(x: float) -> str:
    return repr(x) if math.isfinite(x) else f'float("{x}")'
