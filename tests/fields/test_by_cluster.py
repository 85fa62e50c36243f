"""The cells of a block by cluster, and which of them are looked at one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import stabdask as sd
from stabdask.errors import InputError
from stabdask.fields.by_cluster import by_cluster

FIELDS = {
    exponent: sd.HopfieldField.from_arrays(
        ["a", "b"],
        W={"one": np.eye(2), "two": [[0.0, 2.0], [0.0, 0.0]]},
        gamma=1.0,
        threshold=1.0,
        exponent=exponent,
    )
    for exponent in (2.0, 0.5)
}
VALUES = st.sampled_from([-1.0, -0.0, 0.0, 1e-300, 2.0, np.nan, np.inf, -np.inf])
NAMES = np.array([f"cell{i}" for i in range(6)])


def refusal(check: Any, *arguments: Any) -> str | None:
    try:
        check(*arguments)
    except InputError as error:
        return str(error)
    return None


@given(
    x=hnp.arrays("f4", (6, 2), elements=VALUES),
    codes=hnp.arrays("i8", 6, elements=st.integers(-1, 1)),
    exponent=st.sampled_from(sorted(FIELDS)),
)
def test_cells_are_refused_as_by_a_look_at_each(x: Any, codes: Any, exponent: float) -> None:
    field = FIELDS[exponent]
    for some in by_cluster(x, codes):
        assert some.lowest == some.x.min(initial=np.inf)
        expected = refusal(field.check_expression, some.x, some.cluster, NAMES[some.rows])
        assert refusal(some.check, field, NAMES) == expected


def test_a_field_that_says_nothing_of_its_domain_looks_at_every_cell() -> None:
    class Picky(sd.HopfieldField):
        def domain_from(self, cluster: int) -> float:
            return super(sd.HopfieldField, self).domain_from(cluster)

        def check_expression(self, x: Any, cluster: int, cells: Any) -> None:
            if (x > 1).any():
                raise InputError("too high")

    own = FIELDS[2.0]
    field = Picky(own.genes, dict(zip(own.clusters, own.parameters, strict=True)))
    (some,) = by_cluster(np.array([[2.0, 0.0]]), np.array([0]))
    with pytest.raises(InputError, match="too high"):
        some.check(field, NAMES)


def test_where_a_field_is_defined_whatever_is_higher() -> None:
    assert [FIELDS[exponent].domain_from(0) for exponent in (2.0, 0.5)] == [0.0, np.inf]
