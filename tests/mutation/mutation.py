"""Every backward of the library with one thing changed in its source: `check` has to find each.

The private functions of its module that a backward calls are changed too. A mutant is named by its
pair, the name that the changed line assigns (or ``return``, ``if``), and the change:
``softmax: dx: probs * dprobs → probs / dprobs``. The name of another function than the backward
comes first: ``batchnorm: _as_gain.return: …``. A long part is left out of a name, and ``(#2)`` at
the end of one tells the second such change.
"""

from __future__ import annotations

import ast
import copy
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from backprop_ops import Pair, check
from backprop_ops.leaves import copied
from backprop_ops.ops import _large
from tests.support.families import beside
from tests.support.samples import Drawing, real
from tests.support.verdict import unexplained

OPERATORS: tuple[tuple[type[ast.AST], ...], ...] = (
    (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.MatMult, ast.Pow),
    (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
    (ast.Is, ast.IsNot),
    (ast.In, ast.NotIn),
    (ast.And, ast.Or),
)
NAMES = (
    ("sum", "mean"),
    ("max", "min"),
    ("amax", "amin"),
    ("argmax", "argmin"),
    ("maximum", "minimum"),
    ("exp", "expm1"),
    ("log", "log1p"),
    ("sqrt", "rsqrt"),
    ("sin", "cos"),
    ("tanh", "sigmoid"),
    ("softmax", "log_softmax"),
    ("addcmul", "addcdiv"),
    ("zeros_like", "ones_like"),
    ("new_zeros", "new_ones"),
    ("add_", "sub_"),
    ("addcmul_", "addcdiv_"),
    ("scatter", "scatter_add"),
    ("scatter_", "scatter_add_"),
    ("index_add", "index_copy"),
    ("indices", "values"),
    ("unsqueeze", "squeeze"),
    ("tril", "triu"),
    ("any", "all"),
)
NUMBERS = ("0", "1", "-1", "-{}", "{} + 1", "{} - 1")  # what a name of a number becomes
# These read no values: there -x and x are the same.
READS_NO_VALUES = {"shape", "dtype", "device", "dim", "numel", "takes_gradient"}
READS_NO_VALUES |= {"zeros_like", "ones_like", "new_zeros", "new_ones", "new_full"}

# A part is shown with the whole that it is in: `gain.shape → mean.shape`.
PARTS = (ast.Name, ast.Constant, ast.Slice)
WHOLES = (ast.Attribute, ast.Subscript, ast.keyword)


@dataclass(frozen=True)
class Mutant:
    """A pair with another ``source`` of its backward, or of a function that the backward calls."""

    name: str
    pair: Pair
    source: str

    @property
    def backward(self) -> Callable[..., Any]:
        """The backward, in a copy of its module's names, where it calls what was changed."""
        names = dict(self.pair.backward.__globals__)
        for source in (*_sources(self.pair).values(), self.source):
            exec(_compiled(source, f"<{self.name}>"), names)
        backward: Callable[..., Any] = names[self.pair.backward.__name__]
        return backward


@cache
def _sources(pair: Pair) -> dict[str, str]:
    """The sources of a backward and of the private functions of its module that it calls."""
    found: dict[str, str] = {}
    waiting = [pair.backward]
    while waiting:
        function = waiting.pop(0)
        found[function.__name__] = source = inspect.getsource(function)
        for node in ast.walk(ast.parse(source)):
            called = function.__globals__.get(node.id) if isinstance(node, ast.Name) else None
            private = inspect.isfunction(called) and called.__name__.startswith("_")
            if private and called.__module__ == pair.backward.__module__:
                waiting += [called] * (called.__name__ not in found)
    return found


def _compiled(source: str, name: str) -> CodeType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of "is" beside a number
        return compile(source, name, "exec")


def original(pair: Pair) -> Mutant:
    """A pair's own backward as if it was a mutant of it."""
    return Mutant(pair.name, pair, inspect.getsource(pair.backward))


def survives(mutant: Mutant) -> bool:
    """Whether `check` passes it on every sample of its pair; first where it shows, if anywhere."""
    for args, options, cached in sorted(calls(mutant.pair), key=lambda call: agrees(mutant, *call)):
        try:
            with cache_of(cached), unexplained():
                if check(mutant.pair.forward, mutant.backward, args, options, seed=0).failures:
                    return False
        except Exception:  # whatever it is, nobody takes the mutant for right
            return False
    return True


def agrees(mutant: Mutant, args: tuple[Any, ...], options: dict[str, Any], cached: int) -> bool:
    """Whether it returns what the pair's own backward does, to rounding, on one sample."""
    pair = mutant.pair
    arguments = copied(pair.arguments(args, options))  # a mutant may write to them
    result = pair.call(arguments)
    fields = pair.fields(result)
    torch.manual_seed(0)
    upstreams = {output: torch.randn_like(fields[output]) for output in pair.outputs}
    expected = pair.gradients(arguments, result, upstreams)
    try:
        mutated = replace(pair, backward=mutant.backward)
        with cache_of(cached):
            assert_close(mutated.gradients(arguments, result, upstreams), expected)
    except Exception:  # of another value, or whatever the mutant raises
        return False
    return True


@contextmanager
def cache_of(elements: int) -> Iterator[None]:
    """With a pair's arrays taken for larger than the cache where they have more elements."""
    before, _large.CACHED = _large.CACHED, elements
    try:
        yield
    finally:
        _large.CACHED = before


@cache
def calls(pair: Pair) -> tuple[tuple[tuple[Any, ...], dict[str, Any], int], ...]:
    """The arguments of the pair's samples, which stand in ``tests/ops/test_<family>.py``.

    Each with the size of the cache, and with hardly any, as a large array has.
    """
    samples = beside(pair, "SAMPLES")
    shapes = (((5, 3), (5, 3)), ((5, 1), (3,)))  # of operands that broadcast: equal, and unequal
    drawn = [Drawing(torch.float64, shapes=both) for both in shapes]
    return tuple(
        (*drawing.call(sample), cached)
        for sample in samples
        for drawing in (drawn if real("*") in sample.args else drawn[:1])
        for cached in (_large.CACHED, 2)
    )


@cache
def mutants(pair: Pair) -> tuple[Mutant, ...]:
    """Every mutant of a pair that compiles to another program than those before it."""
    kinds = _kinds(pair)
    found: dict[str, Mutant] = {}
    for source in _sources(pair).values():
        (function,) = ast.parse(source).body
        assert isinstance(function, ast.FunctionDef)
        programs = {_program(function)}
        outermost = () if function.name == pair.backward.__name__ else (function.name,)
        for place in list(_places(function, (function,))):
            known: dict[str, set[str]] = {}
            for scope in place.scopes:
                of_scope = kinds.get(scope.name, {})
                names = _assigned(scope, place.node.lineno)
                known |= {name: of_scope[name] for name in names if name in of_scope}
            shown = place.parent if place.is_part else place.node
            before = _text(shown)
            where = ".".join((*outermost, *(f.name for f in place.scopes[1:]), place.statement))
            for new in _changes(place.node, place.parent, known):
                place.put(new)
                after = _text(new if shown is place.node else shown)
                program, changed = _program(function), ast.unparse(function)
                place.put(place.node)
                if program not in programs:
                    programs.add(program)
                    name = f"{pair.name}: {where}: {before} → {after}"
                    same = 1 + sum(other.partition(" (#")[0] == name for other in found)
                    name = name if same == 1 else f"{name} (#{same})"
                    found[name] = Mutant(name, pair, changed)
    return tuple(found.values())


@dataclass(frozen=True)
class _Place:
    """Something that can be changed in a function, and where it stands.

    ``scopes``: the functions around it, the outermost first. ``statement``: the name that its
    statement assigns, or the statement's first word.
    """

    node: ast.expr | ast.stmt
    parent: ast.AST
    put: Callable[[Any], None]
    scopes: tuple[ast.FunctionDef, ...]
    statement: str

    @property
    def is_part(self) -> bool:
        return isinstance(self.node, PARTS) and isinstance(self.parent, WHOLES)


def _places(
    parent: ast.AST, scopes: tuple[ast.FunctionDef, ...] = (), statement: str = ""
) -> Iterator[_Place]:
    """Every place below a node but annotations, defaults and docstrings."""
    for field, value in ast.iter_fields(parent):
        if isinstance(parent, ast.FunctionDef) and field != "body":
            continue
        if isinstance(parent, ast.AnnAssign) and field == "annotation":
            continue
        if isinstance(value, list):
            children = [(child, partial(value.__setitem__, i)) for i, child in enumerate(value)]
        else:
            children = [(value, partial(setattr, parent, field))]
        for child, put in children:
            if isinstance(child, ast.stmt):
                statement = _assigns(child)
            if isinstance(child, (ast.expr, ast.stmt)):
                yield _Place(child, parent, put, scopes, statement)
            inner = (*scopes, child) if isinstance(child, ast.FunctionDef) else scopes
            if isinstance(child, ast.AST):
                yield from _places(child, inner, statement)


def _assigns(statement: ast.stmt) -> str:
    match statement:
        case ast.Assign([target]) | ast.AugAssign(target) | ast.AnnAssign(target):
            return ast.unparse(target).strip("()")
        case _:
            return type(statement).__name__.lower()


def _changes(
    node: ast.expr | ast.stmt, parent: ast.AST, kinds: Mapping[str, set[str]]
) -> Iterator[ast.AST]:
    """The nodes that may replace a node. ``kinds``: the kinds of value of the names known there."""
    match node:
        case ast.BinOp(left, op, right):
            yield from (ast.BinOp(left, other, right) for other in _others(op))
            yield from (left, right)
            if not isinstance(op, (ast.Add, ast.Mult)):
                yield ast.BinOp(right, op, left)
            if isinstance(op, (ast.Add, ast.Sub)):
                yield ast.UnaryOp(ast.USub(), node)
        case ast.AugAssign(target, op, value):
            yield from (ast.AugAssign(target, other, value) for other in _others(op))
            yield ast.Assign([target], value, lineno=node.lineno)
        case ast.UnaryOp(ast.USub() | ast.Not(), operand):
            yield operand
        case ast.BoolOp(op, values):
            yield from (ast.BoolOp(other, values) for other in _others(op))
            yield from values
        case ast.Compare(left, [op], [right]):
            yield from (ast.Compare(left, [other], [right]) for other in _others(op))
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield from (ast.Constant(other) for other in (0, 1, value + 1, value - 1, -value))
        case ast.Name(name, ast.Load()) if name in kinds:
            like = [other for other in kinds if other != name and kinds[other] & kinds[name]]
            yield from (ast.Name(other) for other in like)
            if "bool" in kinds[name]:
                yield ast.UnaryOp(ast.Not(), node)
            if "floating" in kinds[name] and _reads_values(parent):
                yield ast.UnaryOp(ast.USub(), node)
            if "number" in kinds[name] and _reads_values(parent):
                yield from (ast.parse(t.format(name), mode="eval").body for t in NUMBERS)
        case ast.Name(name, ast.Load()):
            yield from (ast.Name(other) for other in _exchanged(name))
        case ast.Attribute(value, name):
            yield from (ast.Attribute(value, other) for other in _exchanged(name))
            if name in ("T", "mT"):
                yield value
        case ast.Subscript(value):
            yield value
        case ast.Slice(lower, upper, step):
            yield from (ast.Slice(upper=upper, step=step), ast.Slice(lower=lower, step=step))
        case ast.Call(function, args, keywords):
            yield from args[:1]
            method = isinstance(function, ast.Attribute)  # or a module's function
            if method:
                yield function.value
            shorter = [args[:i] + args[i + 1 :] for i in range(not method, len(args))]
            swapped = [_swapped(args, i) for i in range(len(args) - 1)]
            yield from (ast.Call(function, other, keywords) for other in shorter + swapped)
            for i in range(len(keywords)):
                yield ast.Call(function, args, keywords[:i] + keywords[i + 1 :])
    match parent, node:
        case ((ast.If(test=test) | ast.IfExp(test=test)), _) if test is node:
            yield from (ast.Constant(True), ast.Constant(False), ast.UnaryOp(ast.Not(), node))
        case ast.Return(), ast.Tuple(entries):
            for i, entry in enumerate(entries):
                for other in (ast.Constant(None), _zero(entry)):
                    yield ast.Tuple([*entries[:i], other, *entries[i + 1 :]])
                if i:
                    yield ast.Tuple(_swapped(entries, i - 1))
        case ast.Return(), _:
            yield from (ast.Constant(None), _zero(node))


def _others(op: ast.AST) -> list[Any]:
    return [o() for group in OPERATORS if type(op) in group for o in group if o is not type(op)]


def _exchanged(name: str) -> list[str]:
    return [other for group in NAMES if name in group for other in group if other != name]


def _reads_values(node: ast.AST) -> bool:
    of = node.func if isinstance(node, ast.Call) else node
    return getattr(of, "attr", getattr(of, "id", None)) not in READS_NO_VALUES


def _swapped(values: list[Any], i: int) -> list[Any]:
    return [*values[:i], values[i + 1], values[i], *values[i + 2 :]]


def _zero(value: Any) -> ast.BinOp:
    return ast.BinOp(ast.Constant(0), ast.Mult(), value)


def _text(node: ast.AST) -> str:
    """A node in the words of its source, what is long below it left out."""
    node = copy.deepcopy(node)
    for place in list(_places(node)):
        if place.parent is node and len(ast.unparse(place.node)) > 24:
            place.put(ast.Name("…"))
    return ast.unparse(ast.fix_missing_locations(node))


def _program(function: ast.FunctionDef) -> tuple[Any, ...]:
    """The code of a function without its line numbers."""

    def parts(code: CodeType) -> tuple[Any, ...]:
        constants = [parts(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
        return (code.co_code, code.co_names, code.co_varnames, *constants)

    return parts(_compiled(ast.unparse(function), ""))


def _assigned(function: ast.FunctionDef, line: int) -> list[str]:
    """The names that are known before a line: the parameters, and what is assigned above."""
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    stored = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.lineno < line]
    above = [n.id for n in stored if isinstance(n.ctx, ast.Store)]
    return list(dict.fromkeys([*(argument.arg for argument in arguments), *above]))


def _kinds(pair: Pair) -> dict[str, dict[str, set[str]]]:
    """By function and name, the kinds of value in a pair's module while its backward runs."""
    kinds: dict[str, dict[str, set[str]]] = {}
    module = pair.backward.__code__.co_filename

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code.co_filename == module:
            of_function = kinds.setdefault(frame.f_code.co_name, {})
            for name, value in frame.f_locals.items():
                of_function.setdefault(name, set()).add(_kind(value))

    for args, options, cached in calls(pair):
        arguments, result = pair.arguments(args, options), pair.forward(*args, **options)
        fields = pair.fields(result)
        with cache_of(cached):
            sys.setprofile(note)
            try:
                pair.gradients(arguments, result, {name: fields[name] for name in pair.outputs})
            finally:
                sys.setprofile(None)
    return kinds


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return "floating" if value.is_floating_point() else "index"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return type(value).__name__
