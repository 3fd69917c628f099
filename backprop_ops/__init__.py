"""Verified pairs: pure forward functions with hand-written backwards, checked against autograd.

Every pair of ``backprop_ops/ops`` is a public name here, ``tanh`` and ``tanh_backward`` alike, and
so is the record that a forward returns. `pairs` maps the names of the forwards to the pairs. Names
are loaded on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping as _Mapping

    from backprop_ops.autograd import differentiable as differentiable
    from backprop_ops.broadcasting import sum_to as sum_to
    from backprop_ops.checking.checker import assert_backward as assert_backward
    from backprop_ops.checking.checker import check as check
    from backprop_ops.checking.report import BackwardError as BackwardError
    from backprop_ops.checking.report import Failure as Failure
    from backprop_ops.checking.report import Report as Report
    from backprop_ops.comparison import Comparison as Comparison
    from backprop_ops.comparison import cmp as cmp
    from backprop_ops.comparison import compare as compare
    from backprop_ops.library import custom_op as custom_op
    from backprop_ops.nodes import compare_nodes as compare_nodes
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
    from backprop_ops.pair import PairError as PairError

    __version__: str
    pairs: _Mapping[str, Pair]

else:  # out of a type checker's sight, so that it refuses a name that does not exist
    import importlib
    import importlib.metadata
    import sys

    _HOME = {
        "differentiable": "autograd",
        "sum_to": "broadcasting",
        "BackwardError": "checking.report",
        "Failure": "checking.report",
        "Report": "checking.report",
        "assert_backward": "checking.checker",
        "check": "checking.checker",
        "Comparison": "comparison",
        "cmp": "comparison",
        "compare": "comparison",
        "custom_op": "library",
        "compare_nodes": "nodes",
        "Index": "pair",
        "Kept": "pair",
        "Pair": "pair",
        "PairError": "pair",
    }

    def __getattr__(name):
        if name == "__version__":
            value = importlib.metadata.version(__name__)
        elif name == "__all__":  # a star import asks for it
            value = __dir__()
        elif name in _HOME:
            value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        elif name == "pairs":
            value = _find_pairs()
        elif not name.startswith("_") and name in (homes := _homes()):
            value = getattr(homes[name], name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*_HOME, *_homes(), "__version__", "pairs"})

    def _homes():
        """The module of every public name of ``ops``."""
        modules = {pair.forward.__module__ for pair in _find_pairs().values()}
        return {name: sys.modules[m] for m in modules for name in sys.modules[m].__all__}

    def _find_pairs():
        from backprop_ops.ops import find_pairs

        return find_pairs()
