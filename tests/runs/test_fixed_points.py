"""`sd.fixed_points`: clusters, starts, what is refused, and the same answer whoever computes it."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import match_spectra, random_field
from random_atlas import random_atlas
from smooth_fields import SmoothField, kernel_field, planted_kernels

import stabdask as sd
from stabdask.errors import InputError, MissingKeyError, UsageError

Array = np.ndarray[Any, Any]


def toggle(**options: Any) -> sd.HopfieldField:
    """Two genes that repress each other: x = 4 / (1 + y^2) and back, so x y = 1 or x = y."""
    return sd.HopfieldField.from_arrays(
        ["A", "B"],
        **{
            "W": [[0.0, -4.0], [-4.0, 0.0]],
            "gamma": 1.0,
            "bias": 4.0,
            "threshold": 1.0,
            "exponent": 2.0,
            **options,
        },
    )


def atlas(x: Array, labels: list[Any] | None = None, genes: list[str] | None = None) -> xr.Dataset:
    obs = pd.DataFrame({"kind": labels or ["all"] * len(x)}, index=[f"cell{i}" for i in range(len(x))])
    adata = anndata.AnnData(np.asarray(x, float), obs=obs)
    adata.var_names = genes or ["A", "B"]
    return sd.open_cells(adata, cluster_key="kind", block_cells=7)


def uniform(n: int, seed: int = 0, high: float = 4.0, d: int = 2) -> Array:
    return np.random.default_rng(seed).uniform(0.0, high, (n, d))


def test_the_toggle_by_hand() -> None:
    fps = sd.fixed_points(toggle(), atlas(uniform(200)))
    order = np.argsort(fps["location"].values[:, 0])
    fps = fps.isel(fixed_point=order)
    low, high = 2 - np.sqrt(3), 2 + np.sqrt(3)  # of x + 1/x = 4
    middle = np.roots([1.0, 0.0, 1.0, -4.0]).real.max()  # of x (1 + x^2) = 4
    np.testing.assert_allclose(fps["location"], [[low, high], [middle, middle], [high, low]], atol=1e-12)
    assert fps["type"].values.tolist() == ["attractor", "saddle", "attractor"]
    assert fps["index"].values.tolist() == [0, 1, 0]
    # J has -1 on its diagonal and -x/2 off it where x y = 1, -x^3/2 where x = y.
    expected = [[-0.5, -1.5], [-1 + middle**3 / 2, -1 - middle**3 / 2], [-0.5, -1.5]]
    np.testing.assert_allclose(fps["eigenvalue"], expected, atol=1e-12)
    np.testing.assert_allclose(fps["abscissa"], [row[0] for row in expected], atol=1e-12)
    assert fps["n_starts"].values.sum() == 200
    assert set(fps["form"].values) == {"node"}
    assert not fps["near_switch"].any()
    assert fps["isolated"].all()


def test_what_a_result_holds() -> None:
    fps = sd.fixed_points(toggle(), atlas(uniform(50)))
    assert dict(fps.sizes) == {"fixed_point": 3, "axis": 2, "mode": 2, "searched": 1, "outcome": 6}
    assert fps["axis"].values.tolist() == ["A", "B"]
    for name in fps.data_vars:
        assert {"long_name", "units", "description"} <= set(fps[name].attrs), name
    assert fps.attrs["field"] == toggle().fingerprint
    assert int(fps["start_count"].sel(searched="all", outcome="converged")) == 50
    np.testing.assert_allclose(
        fps["speed"], np.linalg.norm(toggle().velocity(fps["location"].values, "all"), axis=1)
    )
    table = sd.fixed_point_table(fps)
    assert len(table) == 3
    assert table.columns.tolist()[-2:] == ["A", "B"]
    assert table["type"].tolist() == fps["type"].values.tolist()
    assert "A" not in sd.fixed_point_table(fps, locations=False)
    one = sd.fixed_point_table(fps.isel(fixed_point=1))
    assert one["abscissa"].tolist() == [float(fps["abscissa"][1])]
    clash = fps.assign_coords(axis=["type", "B"])
    assert sd.fixed_point_table(clash).columns.tolist()[-2:] == ["location:type", "B"]
    with pytest.raises(MissingKeyError, match=r"expected a Dataset from stabdask\.fixed_points"):
        sd.fixed_point_table(xr.Dataset())


def test_result_survives_a_file(tmp_path: Any) -> None:
    fps = sd.fixed_points(toggle(), atlas(uniform(50)))
    plain = fps.assign(eigenvalue_real=fps["eigenvalue"].real, eigenvalue_imag=fps["eigenvalue"].imag)
    fps.to_zarr(tmp_path / "fps.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "fps.zarr", consolidated=False).compute()
    xr.testing.assert_allclose(again.drop_vars(["type", "form"]), fps.drop_vars(["type", "form"]))
    assert again["type"].values.tolist() == plain["type"].values.tolist()


def test_the_unstable_focus_of_a_repressilator() -> None:
    field = sd.HopfieldField.from_arrays(
        ["lacI", "tetR", "cI"], W=[[0, 0, -10.0], [-10.0, 0, 0], [0, -10.0, 0]], gamma=1.0, bias=10.0, threshold=1.0,
        exponent=4.0,
    )  # fmt: skip
    fps = sd.fixed_points(field, starts=uniform(100, high=10.0, d=3))
    x = np.roots([1.0, 0, 0, 0, 1.0, -10.0])
    x = float(x[(np.abs(x.imag) < 1e-9) & (x.real > 0)].real[0])  # x (1 + x^4) = 10
    np.testing.assert_allclose(fps["location"], [[x, x, x]], atol=1e-12)
    slope = 10.0 * 4 * x**3 / (1 + x**4) ** 2
    turn = np.exp(1j * np.pi / 3)
    expected = [-1 + slope * turn, -1 + slope * turn.conj(), -1 - slope]
    np.testing.assert_allclose(fps["eigenvalue"].values[0], expected, atol=1e-11)
    assert (fps["type"].item(), fps["form"].item(), fps["index"].item()) == ("saddle", "spiral", 2)
    assert fps["frequency"].item() == pytest.approx(slope * np.sqrt(3) / 2)


def certified(z: Array, C: Array, beta: float, field: SmoothField, x: Array) -> bool:
    """Return whether the theorem of Kantorovich proves a zero within twice Newton's step of x.

    The derivative of the Jacobian is nowhere larger than 2 beta sum |C_m|: a Gaussian's second derivatives are nowhere
    larger than at its top.
    """
    inverse = np.linalg.inv(field.jacobian(x[None])[0])
    step = np.linalg.norm(inverse @ field.velocity(x[None])[0])
    bend = 2.0 * beta * np.linalg.norm(C, axis=1).sum()
    return bool(np.linalg.norm(inverse, 2) * bend * step <= 0.5)


def planted_case(seed: int, **options: Any) -> tuple[SmoothField, Array, Array, Array, Array]:
    """Return a 30-d field, planted zeros with their Jacobians (of all types), its control points and coefficients."""
    rng = np.random.default_rng(seed)
    d, kinds = 30, [(0, False), (0, True), (1, False), (2, True), (3, False), (30, True)]
    points = rng.normal(size=(len(kinds), d)) * 6.0 / np.sqrt(2 * d)
    jacobians = []
    for n_unstable, spiral in kinds:
        Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
        B = np.diag(np.where(np.arange(d) < n_unstable, 1.0, -1.0) * rng.uniform(0.5, 2.0, d))
        if spiral:
            # The leading mode: the largest real part.
            real = 2.1 if n_unstable else -0.4
            B[:2, :2] = [[real, -1.5], [1.5, real]]
        jacobians.append(Q @ B @ Q.T)
    z, C = planted_kernels(points, np.stack(jacobians), seed=seed, **options)
    return kernel_field(z, C, options["beta"]), points, np.stack(jacobians), z, C


@pytest.mark.parametrize(("seed", "beta", "radius"), [(0, 0.1, 1.5), (1, 0.05, 2.0), (2, 0.3, 1.0)])
def test_planted_in_thirty_dimensions(seed: int, beta: float, radius: float) -> None:
    field, points, jacobians, z, C = planted_case(seed, beta=beta, radius=radius)
    rng = np.random.default_rng(seed)
    x = points[rng.integers(6, size=240)] + rng.normal(size=(240, 30)) * 1.2 / np.sqrt(30)
    fps = sd.fixed_points(field, atlas(x, genes=field.genes.tolist()))
    location = fps["location"].values
    distance = np.linalg.norm(location[:, None] - points, axis=2)
    nearest = distance.argmin(axis=0)
    assert distance.min(axis=0).max() < 1e-9, "a planted zero was missed"
    expected = [("attractor", "node", 0), ("attractor", "spiral", 0), ("saddle", "node", 1)]
    expected += [("saddle", "spiral", 2), ("saddle", "node", 3), ("repeller", "spiral", 30)]
    for planted, row in enumerate(nearest):
        one = fps.isel(fixed_point=row)
        assert (one["type"].item(), one["form"].item(), one["index"].item()) == expected[planted]
        assert match_spectra(one["eigenvalue"].values, np.linalg.eigvals(jacobians[planted])) < 1e-8
        assert bool(one["inside"])
    assert all(certified(z, C, beta, field, place) for place in location), "a zero was invented"


def test_clusters_have_parameters_of_their_own() -> None:
    field = toggle(
        W={"one": [[0.0, -4.0], [-4.0, 0.0]], "two": [[0.0, -1.0], [-1.0, 0.0]], "none": np.zeros((2, 2))}
    )
    cells = atlas(uniform(90), ["one", "two", None] * 30)
    fps = sd.fixed_points(field, cells)
    assert fps["cluster"].values.tolist() == ["one"] * 3 + ["two"]
    assert fps["searched"].values.tolist() == ["one", "two"]
    assert fps["start_count"].sum("outcome").values.tolist() == [30, 30]
    alone = sd.fixed_points(field, cells, cluster="two")
    xr.testing.assert_identical(
        alone.drop_vars("fixed_point"), fps.isel(fixed_point=[3], searched=[1]).drop_vars("fixed_point")
    )
    both = sd.fixed_points(field, cells, cluster=["two", "one"])
    xr.testing.assert_identical(both, fps)
    given = sd.fixed_points(field, starts=uniform(40))
    assert given["searched"].values.tolist() == ["none", "one", "two"]
    assert given["cluster"].values.tolist() == ["none", *["one"] * 3, "two"]
    assert "inside" not in given
    with pytest.raises(MissingKeyError, match=r"no cell is in cluster 'none'"):
        sd.fixed_points(field, cells, cluster="none")
    with pytest.raises(MissingKeyError, match="did you mean 'two'"):
        sd.fixed_points(field, cells, cluster="twoo")


def test_one_set_of_parameters_is_for_all_cells() -> None:
    cells = atlas(uniform(60), ["x", "y"] * 30)
    assert int(sd.fixed_points(toggle(), cells)["start_count"].sum()) == 60
    field = toggle(W={"all": [[0.0, -4.0], [-4.0, 0.0]], "x": [[0.0, -1.0], [-1.0, 0.0]]})
    assert sd.fixed_points(field, cells)["searched"].values.tolist() == ["x"]
    everyone = sd.fixed_points(field, cells, cluster="all")
    assert everyone["start_count"].sum("outcome").values.tolist() == [60]
    other = toggle(W={"p": np.zeros((2, 2)), "q": np.zeros((2, 2))})
    with pytest.raises(MissingKeyError, match=r"no cell is in a cluster of the field; .*'p', 'q'"):
        sd.fixed_points(other, cells)


def test_inside_and_outside_the_data() -> None:
    rng = np.random.default_rng(0)
    x = np.abs(rng.normal([3.7, 0.3], 0.15, (300, 2)))
    fps = sd.fixed_points(toggle(), atlas(x), starts=uniform(100))
    inside = fps["inside"].values
    assert fps["location"].values[inside][:, 0] == pytest.approx([2 + np.sqrt(3)])
    assert (~inside).sum() == 2
    place = fps["location"].values[~inside][0]
    assert fps["distance"].values[~inside][0] == pytest.approx(np.sort(np.linalg.norm(x - place, axis=1))[4])
    limit = fps["distance_limit"].values
    assert (limit == limit[0]).all()
    assert 0.0 < limit[0] < 0.5
    wider = sd.fixed_points(toggle(), atlas(x), starts=uniform(100), quantile=1.0, n_neighbors=1)
    assert wider["distance_limit"].values[0] > 0
    assert (wider["distance"] < fps["distance"]).all()


def test_no_fixed_points_is_no_error() -> None:
    falling = sd.HopfieldField.from_arrays(
        ["A", "B"], W=-np.eye(2), gamma=1.0, bias=-1.0, threshold=1.0, exponent=2.0
    )
    fps = sd.fixed_points(falling, atlas(uniform(30)))
    assert fps.sizes["fixed_point"] == 0
    assert fps["location"].shape == (0, 2)
    assert fps["eigenvalue"].dtype == np.complex128
    assert fps["start_count"].sel(outcome="boundary").item() == 30
    assert len(sd.fixed_point_table(fps)) == 0
    held = sd.fixed_points(falling, atlas(uniform(30)), boundary=True)
    assert held["held_count"].values.tolist() == [2]
    np.testing.assert_array_equal(held["location"], [[0.0, 0.0]])


def test_bad_cells_are_counted_and_left_out() -> None:
    x = uniform(20)
    x[3, 1], x[7] = np.nan, np.inf
    fps = sd.fixed_points(toggle(), atlas(x), starts=[[np.nan, 1.0], [1.0, 2.0]])
    assert fps["start_count"].sel(outcome="not_finite").item() == 3
    assert fps["n_starts"].values.sum() == 19
    assert np.isfinite(fps["distance"]).all()
    nothing = sd.fixed_points(toggle(), starts=[[np.nan, 1.0]])
    assert nothing.sizes["fixed_point"] == 0
    assert nothing["start_count"].sel(outcome="not_finite").item() == 1
    one_cell = sd.fixed_points(toggle(), atlas(uniform(1)))
    assert one_cell["n_starts"].values.tolist() == [1]
    assert not one_cell["inside"].any()


def test_one_start_and_many_of_the_same() -> None:
    at_root = [2 - np.sqrt(3), 2 + np.sqrt(3)]
    fps = sd.fixed_points(toggle(), starts=at_root)
    np.testing.assert_allclose(fps["location"], [at_root], atol=1e-14)
    many = sd.fixed_points(toggle(), starts=np.tile(at_root, (70, 1)))
    assert many["n_starts"].values.tolist() == [70]
    np.testing.assert_array_equal(many["location"], fps["location"])
    cells = atlas(np.tile([1.0, 2.0], (25, 1)))
    same = sd.fixed_points(toggle(), cells)
    assert same["n_starts"].values.tolist() == [25]
    assert same["start_count"].sum().item() == 25


def test_neither_order_nor_seed_nor_workers_matter() -> None:
    from distributed import Client

    case = random_atlas(2, n_cells=40, n_genes=12, n_regulators=7)
    cells = case.cells()
    starts = case.drawn.expression(30)
    options: dict[str, Any] = {"starts": starts, "boundary": True}
    fps = sd.fixed_points(case.field, cells, **options)
    assert fps.sizes["fixed_point"]
    shuffled = sd.fixed_points(case.field, cells, starts=starts[::-1], boundary=True)
    xr.testing.assert_identical(shuffled, fps)
    with Client(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as client:
        on_workers = sd.fixed_points(case.field, cells, client=client, **options)
    xr.testing.assert_identical(on_workers, fps)
    other = sd.fixed_points(case.field, cells, seed=1, **options)
    xr.testing.assert_identical(other.assign_attrs(seed=0), fps)  # every cell is a start anyway


def test_a_draw_is_repeatable_and_of_its_cluster() -> None:
    cells = atlas(uniform(300), ["one", "two"] * 150)
    field = toggle(W={"one": [[0.0, -4.0], [-4.0, 0.0]], "two": [[0.0, -4.0], [-4.0, 0.0]]})
    fps = sd.fixed_points(field, cells, n_starts=20)
    assert fps["start_count"].sum("outcome").values.tolist() == [20, 20]
    xr.testing.assert_identical(sd.fixed_points(field, cells, n_starts=20), fps)
    xr.testing.assert_identical(
        sd.fixed_points(field, cells, n_starts=20, cluster="two")["start_count"],
        fps["start_count"].isel(searched=[1]),
    )
    seeds = [
        sd.fixed_points(field, cells, n_starts=20, seed=seed)["n_starts"].values.tolist() for seed in range(4)
    ]
    assert len({tuple(counts) for counts in seeds}) > 1


def test_axes_are_matched_by_name() -> None:
    x = uniform(60)
    swapped = atlas(np.column_stack([np.full(60, 7.0), x[:, 1], x[:, 0]]), genes=["X", "B", "A"])
    expected = sd.fixed_points(toggle(), atlas(x))
    xr.testing.assert_identical(sd.fixed_points(toggle(), swapped), expected)
    with pytest.raises(MissingKeyError, match=r"lack 1 of the field's 2 axes: B"):
        sd.fixed_points(toggle(), atlas(x, genes=["A", "b"]))


def test_cells_in_the_state_of_an_embedding() -> None:
    rng = np.random.default_rng(0)
    field = kernel_field(rng.normal(size=(20, 2)) * 2, rng.normal(size=(20, 2)), 0.5)
    x = rng.uniform(-4, 4, (200, 2))
    coords = {"axis": field.axes, "cluster": ("cell", np.array(["a", "b"] * 100, dtype=object))}
    cells = xr.Dataset({"coordinates": (("cell", "axis"), x)}, coords=coords)
    fps = sd.fixed_points(field, cells)
    assert fps.sizes["fixed_point"]
    alike = sd.fixed_points(field, cells.chunk({"cell": 33}))
    xr.testing.assert_identical(alike, fps)
    unnamed = sd.fixed_points(field, cells.drop_vars("axis"))
    xr.testing.assert_identical(unnamed, fps)


def test_a_field_that_fades_out_has_no_zeros_at_infinity() -> None:
    rng = np.random.default_rng(0)
    # Cells on a ring, going around it: the field is fitted on it alone, and falls to 0 both ways from it.
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    z = 5.0 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    C = np.stack([-np.sin(angle), np.cos(angle), 0.1 * np.ones(40)], axis=1)
    field = kernel_field(z, C, 1.0)
    x = z[rng.integers(40, size=150)] + 0.3 * rng.normal(size=(150, 3))
    starts = np.concatenate([x + 3.0 * rng.normal(size=x.shape), 100.0 * rng.normal(size=(50, 3))])
    assert np.linalg.norm(field.velocity(starts[-50:]), axis=1).max() < 1e-10
    fps = sd.fixed_points(field, atlas(x, genes=field.genes.tolist()), starts=starts, margin=5.0)
    assert fps.sizes["fixed_point"] == 0
    assert fps["start_count"].sum().item() == 350


def test_a_large_network_with_clusters() -> None:
    drawn = random_field(7, n_genes=120, n_regulators=[40, 60], density=0.1, two_components=False)
    x = drawn.expression(80)
    labels = ["A", "B"] * 40
    cells = atlas(x, labels, genes=drawn.field.genes.tolist())
    fps = sd.fixed_points(drawn.field, cells, boundary=True)
    assert set(fps["cluster"].values) == {"A", "B"}
    for number in range(fps.sizes["fixed_point"]):
        one = fps.isel(fixed_point=number)
        p = drawn.clusters[one["cluster"].item()]
        place = one["location"].values[None]
        v, free = p.velocity(place)[0], place[0] > 0
        assert np.abs(v[free]).max() < 1e-9
        assert (v[~free] < 1e-9).all()
        assert (~free).sum() >= one["held_count"].item()
        J = p.jacobian(np.maximum(place, 1e-300))[0]
        assert match_spectra(one["eigenvalue"].values, np.linalg.eigvals(J)) < 1e-7
        assert one["index"].item() == (np.linalg.eigvals(J).real > 1e-9).sum()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({}, UsageError, "nothing to start from"),
        ({"starts": [[1.0, 2.0, 3.0]]}, InputError, r"shape \(1, 3\); expected \(starts, 2\)"),
        ({"starts": ["a", "b"]}, InputError, "no numbers"),
        ({"starts": [[-1.0, 2.0]]}, InputError, r"'A' in cell 'starts\[0\]' is -1"),
        ({"starts": [[1.0, 2.0]], "n_starts": -1}, UsageError, "n_starts=-1"),
        ({"starts": [[1.0, 2.0]], "n_starts": 2.5}, UsageError, "whole number"),
        ({"starts": [[1.0, 2.0]], "seed": -1}, UsageError, "seed=-1"),
        ({"starts": [[1.0, 2.0]], "cluster": []}, UsageError, "at least one label"),
        ({"starts": [[1.0, 2.0]], "tolerance": -1.0}, UsageError, "tolerance=-1.0"),
        ({"starts": [[1.0, 2.0]], "residual_tolerance": 0.0}, UsageError, "residual_tolerance=0.0"),
        ({"starts": [[1.0, 2.0]], "merge_distance": np.nan}, UsageError, "merge_distance=nan"),
        ({"starts": [[1.0, 2.0]], "quantile": 0.0}, UsageError, "quantile=0.0"),
        ({"starts": [[1.0, 2.0]], "n_neighbors": 0}, UsageError, "n_neighbors=0"),
        ({"starts": [[1.0, 2.0]], "margin": -0.1}, UsageError, "margin=-0.1"),
        ({"starts": [[1.0, 2.0]], "max_iterations": 0}, UsageError, "max_iterations=0"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sd.fixed_points(toggle(), **options)


def test_what_is_no_field_and_no_cells() -> None:
    with pytest.raises(UsageError, match="expected a Field"):
        sd.fixed_points("model.zarr", starts=[[1.0, 2.0]])  # type: ignore[arg-type]
    with pytest.raises(MissingKeyError, match="open_cells"):
        sd.fixed_points(toggle(), xr.Dataset())
    with pytest.raises(MissingKeyError, match="neither 'expression' nor 'coordinates'"):
        sd.fixed_points(toggle(), xr.Dataset(coords={"cluster": ("cell", ["all"])}))
    with pytest.raises(UsageError, match="n_starts=0 and no starts"):
        sd.fixed_points(toggle(), atlas(uniform(3)), n_starts=0)
    with pytest.raises(InputError, match="'cell2' is -1"):
        sd.fixed_points(toggle(), atlas(np.array([[1.0, 2.0], [1, 1], [1, -1]])))
    nameless = xr.Dataset(
        {"coordinates": (("cell", "axis"), np.ones((4, 3)))}, coords={"cluster": ("cell", ["all"] * 4)}
    )
    with pytest.raises(InputError, match="3 axes without names; expected 2"):
        sd.fixed_points(toggle(), nameless)
    only_given = sd.fixed_points(toggle(), atlas(uniform(30)), starts=uniform(10, 1), n_starts=0)
    assert only_given["start_count"].sum().item() == 10
