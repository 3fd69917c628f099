"""The 25 most common kinds of wrong backwards, and where each was seen."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """From the most frequent and silent to the least; the numbers are those of bug reports."""

    MEAN_COUNT = (
        "The denominator of a mean counts other rows or entries than the forward's.",
        "transformers#34191, #35203, #37766; trl#6006",
    )
    UPSTREAM_LOST = (
        "The upstream gradient is ignored, or collapsed to one number.",
        "warp-ctc#69; Liger-Kernel#968; pytorch#4355",
    )
    LAYOUT = (
        "The upstream gradient is taken to be contiguous.",
        "pytorch#194719; flash-attention#355; nn#345",
    )
    OVERWRITTEN = (
        "The upstream gradient, an input or a kept tensor is written to.",
        "Liger-Kernel#272, #343; unsloth#5002; pytorch#81417",
    )
    BROADCAST = (
        "A broadcast is not summed back, or along the wrong axis, or to the wrong shape.",
        "tvm#2465; pytorch#913; transformers#23774",
    )
    TIES = (
        "Each of several equal maxima gets the whole gradient, or near ones count as equal.",
        "mxnet#18563; pytorch#43519; onnxruntime#7217",
    )
    REPEATED_INDEX = (
        "A repeated index is overwritten, not added to.",
        "tt-metal#6232, #53386",
    )
    NAN_AT_ZERO = (
        "nan or inf at zero, or through a branch that was masked.",
        "pytorch#2421, #68425, #187297; tinygrad#15806",
    )
    PRODUCT = (
        "A product's backward divides by its factors, which may be zero.",
        "pytorch#773, #82644; tensorflow#3862; mxnet#17864",
    )
    STATISTICS = (
        "The statistics of a normalization, or its like, are taken for constants.",
        "CrypTen#143; mxnet#1053",
    )
    EPS = (
        "eps is left out or misplaced, or the variance divides by another count.",
        "FlagGems#5222; pytorch#94546; jax#8140",
    )
    IGNORED_ROWS = (
        "Ignored or padded rows get a gradient.",
        "pytorch#73205, #11551, #26302; tinygrad#3570",
    )
    EMPTY_MEAN = (
        "A mean of nothing is 0 / 0.",
        "pytorch#70348, #116349; torchtune#2341",
    )
    MASKED_ROW = (
        "A row of a softmax that is masked everywhere: -inf - -inf.",
        "pytorch#41508, #131060; burn#4694",
    )
    PRECISION = (
        "Added up, computed or returned in another precision.",
        "Liger-Kernel#512; axolotl#1601; tinygrad#12296",
    )
    INDEX_OVERFLOW = (
        "An index beyond 2³¹ elements overflows.",
        "flash-attention#1500, #2260; pytorch#190857",
    )
    SIZES = (
        "Right for some sizes alone: one, an even number, a whole number of blocks.",
        "flash-attention#2337, #2623; pytorch#28716; FlagGems#5392",
    )
    DROPOUT = (
        "The mask or the scale of a dropout is not the forward's.",
        "mamba#1023; pytorch#190717; kaldi#3890",
    )
    MISSING = (
        "A gradient is missing, zero, or in another one's place.",
        "unsloth#4533; candle#3612",
    )
    VARIANT = (
        "The formula of another variant, or with another sign.",
        "tt-metal#35971, #49498; tensorflow#47724",
    )
    KINK = (
        "Beyond what a kink allows, or the bounds of a clamp are others than the forward's.",
        "pytorch#7002, #120258, #184574; torch7#734",
    )
    SHARED_HEADS = (
        "Attention heads that share keys and values are summed in another order.",
        "native-sparse-attention-triton#27",
    )
    OVERFLOW = (
        "Overflows or cancels where the forward does not.",
        "tt-metal#56517, #55349; pytorch#68425",
    )
    STALE = (
        "Memory that nobody wrote to, or a state that outlives the call.",
        "cherimoya#50, #25; pytorch#187687",
    )
    FAN_OUT = (
        "One of several paths to an input overwrites the others.",
        "nntrainer#4025",
    )
    OTHER = ("None of these.", "written for this corpus")
