"""What may be asked for: every refusal with its message, and what options imply for the result."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_atlas import random_atlas

import stabdask as sd
from stabdask.errors import BackendUnavailableError, MissingKeyError, StabdaskError, UsageError
from stabdask.kernels.eig import BACKENDS
from stabdask.runs.block import compute_block
from stabdask.runs.options import Options, make_options
from stabdask.runs.shapes import output_shapes
from stabdask.schema import (
    CLOSED_FORM_QUANTITIES,
    DEFAULT_QUANTITIES,
    MODE_QUANTITIES,
    QUANTITIES,
    SCALARS,
    VARIABLES,
)

ATLAS = random_atlas(0, n_cells=5, n_genes=9, n_regulators=(5, 3))
FIELD = ATLAS.field


def test_the_defaults() -> None:
    options = make_options(FIELD)
    assert options == Options(
        spectrum="full",
        modes=10,
        vectors="none",
        elements=(),
        quantities=DEFAULT_QUANTITIES,
        dtype="float64",
        backend=BACKENDS[0],
        tolerance=0.0,
    )
    assert options.variables() == tuple(
        name
        for name, variable in VARIABLES.items()
        if name not in ("right_vector", "left_vector", "element", "residual")
        and variable.needs not in ("audit", "both vectors")
        and not variable.on_request
    )


REFUSED: list[tuple[dict[str, Any], type[StabdaskError], str]] = [
    ({"spectrum": "ful"}, UsageError, "spectrum='ful'; expected one of 'full', 'leading', 'none'"),
    ({"spectrum": None}, UsageError, "spectrum=None; expected one of"),
    ({"spectrum": ["full"]}, UsageError, "spectrum=['full']; expected one of"),
    ({"vectors": "left"}, UsageError, "vectors='left'; expected one of 'none', 'right', 'both'"),
    ({"vectors": True}, UsageError, "vectors=True; expected one of"),
    (
        {"vectors": "right", "spectrum": "none"},
        UsageError,
        "vectors='right' needs a spectrum; expected spectrum='full' or 'leading'",
    ),
    ({"modes": 0}, UsageError, "modes=0; expected a whole number, at least 1"),
    ({"modes": -1}, UsageError, "modes=-1; expected a whole number, at least 1"),
    ({"modes": 2.5}, UsageError, "modes=2.5; expected a whole number"),
    ({"modes": "3"}, UsageError, "modes='3'; expected a whole number"),
    ({"modes": True}, UsageError, "modes=True; expected a whole number"),
    ({"dtype": "float16"}, UsageError, "dtype='float16'; expected one of 'float64', 'float32'"),
    ({"dtype": "double"}, UsageError, "dtype='double'; expected one of"),
    ({"dtype": np.int32}, UsageError, "expected one of 'float64', 'float32'"),
    ({"dtype": None}, UsageError, "dtype='None'; expected one of"),
    (
        {"backend": "gpu"},
        BackendUnavailableError,
        "backend 'gpu' is not available here; expected 'auto' or one of",
    ),
    ({"backend": None}, BackendUnavailableError, "backend None is not available here"),
    ({"tolerance": -1e-9}, UsageError, "tolerance=-1e-09; expected a finite number >= 0, in 1/time"),
    ({"tolerance": np.nan}, UsageError, "tolerance=nan; expected a finite number >= 0"),
    ({"tolerance": np.inf}, UsageError, "tolerance=inf; expected a finite number >= 0"),
    ({"tolerance": "0.1"}, UsageError, "tolerance='0.1'; expected a finite number >= 0"),
    ({"tolerance": None}, UsageError, "tolerance=None; expected a finite number >= 0"),
    (
        {"elements": ("gene0", "gene1")},
        UsageError,
        "element 'gene0'; expected an (effector, regulator) pair of gene names",
    ),
    ({"elements": [("gene0",)]}, UsageError, "element ('gene0',); expected an (effector, regulator) pair"),
    ({"elements": [("gene0", "gene1", "gene2")]}, UsageError, "expected an (effector, regulator) pair"),
    ({"elements": [5]}, UsageError, "element 5; expected an (effector, regulator) pair"),
    ({"elements": "gene0:gene1"}, UsageError, "elements='gene0:gene1'; expected a sequence of (effector,"),
    ({"elements": None}, UsageError, "elements=None; expected a sequence of (effector, regulator) pairs"),
    (
        {"elements": [("gene0", "gene1"), ("gene0", "Gene2")]},
        MissingKeyError,
        "gene 'Gene2' in elements is not in the field; did you mean 'gene2'",
    ),
    (
        {"elements": [("xyz", "gene1")]},
        MissingKeyError,
        "gene 'xyz' in elements is not in the field; genes pr",
    ),
    ({"quantities": ["Speed"]}, MissingKeyError, "unknown quantity 'Speed'; did you mean 'speed'?"),
    ({"quantities": ["speed", "abscissa"]}, MissingKeyError, "unknown quantity 'abscissa'; did you mean"),
    ({"quantities": ["eigenvalue"]}, MissingKeyError, "unknown quantity 'eigenvalue'"),
    ({"quantities": [3]}, MissingKeyError, "unknown quantity 3; quantities present"),
    ({"quantities": "speed"}, UsageError, "quantities='speed'; expected a sequence of names, e.g. ['speed']"),
    (
        {"quantities": ["residual"]},
        UsageError,
        "quantity 'residual' needs eigenvectors (vectors='right'), which were not asked for",
    ),
    (
        {"quantities": ["speed", "spectral_gap"], "spectrum": "none"},
        UsageError,
        "quantity 'spectral_gap' needs a spectrum, which was not asked for",
    ),
]


@pytest.mark.parametrize(("asked", "error", "text"), REFUSED, ids=lambda value: str(value)[:40])
def test_refusals(asked: dict[str, Any], error: type[StabdaskError], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        make_options(FIELD, **asked)


def test_equal_requests_are_equal_options() -> None:
    """Spelling must not change the fingerprint of a run."""
    one = make_options(
        FIELD,
        dtype="float32",
        modes=3,
        elements=[("gene1", "gene0"), ("gene2", "gene2")],
        quantities=["speed", "trace"],
        tolerance=1,
    )
    other = make_options(
        FIELD,
        dtype=np.float32,  # type: ignore[arg-type]
        modes=np.int64(3),  # type: ignore[arg-type]
        elements=np.array([["gene1", "gene0"], ["gene2", "gene2"], ["gene1", "gene0"]]),  # type: ignore[arg-type]
        quantities=("trace", "speed", "trace"),
        backend="auto",
        tolerance=np.float32(1.0),  # type: ignore[arg-type]
    )
    assert one == other
    assert one.to_dict() == other.to_dict()
    assert type(other.modes) is int
    assert type(other.tolerance) is float
    # The order of elements is that of the result.
    flipped = make_options(FIELD, elements=[("gene2", "gene2"), ("gene1", "gene0")])
    assert flipped.elements == one.elements[::-1]


requests = st.fixed_dictionaries(
    {
        "spectrum": st.sampled_from(["full", "leading", "none"]),
        "modes": st.none() | st.integers(1, 12),
        "vectors": st.sampled_from(["none", "right", "both"]),
        "elements": st.lists(st.tuples(*[st.sampled_from(FIELD.genes.tolist())] * 2), max_size=3),
        "quantities": st.none() | st.lists(st.sampled_from(QUANTITIES), max_size=4),
        "dtype": st.sampled_from(["float64", "float32"]),
        "tolerance": st.floats(0, 1),
    }
)


@given(requests)
@settings(max_examples=80)
def test_every_request_is_either_refused_or_answered_as_announced(asked: dict[str, Any]) -> None:
    contradicts = asked["spectrum"] == "none" and (
        asked["vectors"] != "none" or not set(asked["quantities"] or ()) <= set(CLOSED_FORM_QUANTITIES)
    )
    solves = bool(set(asked["quantities"] or ()) & MODE_QUANTITIES.keys())
    contradicts |= not solves and asked["vectors"] == "none" and "residual" in (asked["quantities"] or ())
    if contradicts:
        with pytest.raises(UsageError):
            make_options(FIELD, **asked)
        return
    options = make_options(FIELD, **asked)
    written = json.loads(json.dumps(options.to_dict()))
    assert written == options.to_dict()
    assert Options.from_dict(written) == options
    shapes = output_shapes(options, FIELD, 5)
    assert tuple(shapes) == options.variables()
    out = compute_block(ATLAS.x, ATLAS.codes, FIELD, options)
    assert {name: values.shape for name, values in out.items()} == shapes
    for name, values in out.items():
        assert values.dtype == VARIABLES[name].dtype(asked["dtype"])
    kept = min(asked["modes"] or 10, 5)
    if asked["spectrum"] != "none":
        assert shapes["eigenvalue"] == (5, kept if asked["spectrum"] == "leading" else 5)
    if asked["vectors"] != "none":
        assert shapes["right_vector"] == (5, kept, 9)
    if asked["quantities"] is not None:
        assert set(asked["quantities"]) & set(SCALARS) == set(out) & set(SCALARS)
        made = {
            part
            for name in set(asked["quantities"]) & MODE_QUANTITIES.keys()
            for part in MODE_QUANTITIES[name]
        }
        assert made <= set(out)


@pytest.mark.parametrize("call", [sd.plan, sd.stability])
def test_an_option_that_does_not_exist(call: Any) -> None:
    with pytest.raises(UsageError, match="no option 'quantites'; did you mean 'quantities'"):
        call(ATLAS.cells(), FIELD, quantites=["speed"])
    with pytest.raises(UsageError, match=r"no option 'bogus'; .*'spectrum'"):
        call(ATLAS.cells(), FIELD, bogus=1)
