"""Verified pairs: pure forward functions with hand-written backwards, checked against autograd.

Every pair of ``backprop_ops/ops`` is a public name here, ``tanh`` and ``tanh_backward`` alike, and
`pairs` maps the names to them. Names are loaded on first use, so that importing the package does
not import torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the pairs by star, so that a new pair needs no line here
    from collections.abc import Callable, Mapping

    from backprop_ops.broadcasting import sum_to as sum_to
    from backprop_ops.checking.checker import BackwardError as BackwardError
    from backprop_ops.checking.checker import Failure as Failure
    from backprop_ops.checking.checker import Report as Report
    from backprop_ops.checking.checker import assert_backward as assert_backward
    from backprop_ops.checking.checker import check as check
    from backprop_ops.comparison import Comparison as Comparison
    from backprop_ops.comparison import cmp as cmp
    from backprop_ops.comparison import compare as compare
    from backprop_ops.ops._running import update_running_statistics as update_running_statistics
    from backprop_ops.ops.batchnorm import *
    from backprop_ops.ops.elementwise import *
    from backprop_ops.ops.indexing import *
    from backprop_ops.ops.linear import *
    from backprop_ops.ops.loss import *
    from backprop_ops.ops.reduction import *
    from backprop_ops.ops.shape import *
    from backprop_ops.ops.softmax import *
    from backprop_ops.pair import Index as Index
    from backprop_ops.pair import Kept as Kept
    from backprop_ops.pair import Pair as Pair

    pairs: Mapping[str, Pair]

_HOME = {
    "sum_to": "broadcasting",
    "update_running_statistics": "ops._running",
    "BackwardError": "checking.checker",
    "Failure": "checking.checker",
    "Report": "checking.checker",
    "assert_backward": "checking.checker",
    "check": "checking.checker",
    "Comparison": "comparison",
    "cmp": "comparison",
    "compare": "comparison",
    "Index": "pair",
    "Kept": "pair",
    "Pair": "pair",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name.startswith("_"):
        raise _no_attribute(name)
    # Before the pairs are looked for: `from backprop_ops import validate` asks here first.
    elif importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    else:
        value = _pairs() if name == "pairs" else _half_of_a_pair(name)
    globals()[name] = value
    return value


def _pairs() -> Mapping[str, Pair]:
    from backprop_ops.pair import find_pairs

    return find_pairs()


def _half_of_a_pair(name: str) -> Callable[..., Any]:
    pair = _pairs().get(name.removesuffix("_backward"))
    if pair is None:
        raise _no_attribute(name)
    return pair.backward if name.endswith("_backward") else pair.forward


def _no_attribute(name: str) -> AttributeError:
    return AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    halves = [half for name in _pairs() for half in (name, f"{name}_backward")]
    return sorted({*globals(), *_HOME, "pairs", *halves})
