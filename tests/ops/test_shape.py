"""The pairs that move elements: the data for the tests of every pair."""

from __future__ import annotations

from torch import ones

from tests.support.counterpart import Counterpart
from tests.support.samples import bad, real, sample

SAMPLES = {"reshape": [sample(real("n c"), shape=(-1,)), sample(real("n 6 c"), shape=(3, -1, 2))]}

BAD_INPUTS = {
    "reshape": [
        bad(TypeError, "x must be a Tensor, got list", [1.0], shape=(1,)),
        bad(ValueError, "shape must hold the 6 elements of x", ones(2, 3), shape=(4, -1)),
        bad(ValueError, "shape must hold the 6 elements of x", ones(2, 3), shape=(2, 2)),
        bad(ValueError, "shape must hold the 6 elements of x", ones(2, 3), shape=(-1, -1)),
        bad(ValueError, "shape must hold the 0 elements of x", ones(0, 3), shape=(0, -1)),
        bad(TypeError, "shape must be a tuple of integers, got float 2.0", ones(2), shape=2.0),
    ]
}

OPINFO = {"reshape": Counterpart("reshape", lambda x, shape: ((x,), {"shape": shape}))}

EXACT = {"reshape": "it moves entries: nothing is rounded"}


EQUIVALENT: dict = {}
