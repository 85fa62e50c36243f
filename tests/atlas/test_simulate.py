"""Simulated atlases: what is written, that it is reproducible, and that it is the biology it claims to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest
from anndata.experimental import read_elem_lazy

from stabdask.atlas.krumsiek import (
    CLUSTERS,
    FATES,
    TRANSCRIPTION_FACTORS,
    assign_clusters,
    grow_network,
    myeloid_network,
    network_field,
)
from stabdask.atlas.sampler import CellSampler, integrate_trajectories, random_stream
from stabdask.atlas.simulate import SimulatedAtlas, simulate_atlas
from stabdask.errors import OutputError, StoreMismatchError, UsageError
from stabdask.fields.hopfield import HopfieldField

# Activation and inhibition of the Boolean rules, written down independently of the module under test.
ACTIVATES = {
    "GATA2": ["GATA2"],
    "GATA1": ["GATA1", "GATA2", "FLI1"],
    "ZFPM1": ["GATA1"],
    "KLF1": ["GATA1"],
    "FLI1": ["GATA1"],
    "TAL1": ["GATA1"],
    "CEBPA": ["CEBPA"],
    "SPI1": ["CEBPA", "SPI1"],
    "JUN": ["SPI1"],
    "EGR1": ["SPI1", "JUN"],
    "GFI1": ["CEBPA"],
}
INHIBITS = {
    "GATA2": ["GATA1", "ZFPM1", "SPI1"],
    "GATA1": ["SPI1"],
    "ZFPM1": [],
    "KLF1": ["FLI1"],
    "FLI1": ["KLF1"],
    "TAL1": ["SPI1"],
    "CEBPA": ["GATA1", "ZFPM1", "TAL1"],
    "SPI1": ["GATA1", "GATA2"],
    "JUN": ["GFI1"],
    "EGR1": ["GFI1"],
    "GFI1": ["EGR1"],
}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> SimulatedAtlas:
    folder = tmp_path_factory.mktemp("atlas")
    return simulate_atlas(folder, n_cells=3000, n_genes=120, zero_fraction=0.4, seed=3, block_cells=700)


@pytest.fixture(scope="module")
def cells(atlas: SimulatedAtlas) -> Any:
    return anndata.read_h5ad(atlas.cells)


def factor_field() -> HopfieldField:
    network = myeloid_network()
    return HopfieldField.from_arrays(
        network.genes,
        W=network.weights.toarray(),
        gamma=network.gamma,
        bias=network.bias,
        threshold=network.hill.threshold,
        exponent=network.hill.exponent,
    )


def relaxed(field: HopfieldField, x: Any, *, cluster: str = "all", n_steps: int = 4000) -> Any:
    """Follow the noiseless field for 200 units of time, not below zero."""
    for _ in range(n_steps):
        x = np.maximum(x + 0.05 * field.velocity(x, cluster), 0.0)
    return x


def layer_bytes(atlas: SimulatedAtlas) -> bytes:
    with h5py.File(atlas.cells, "r") as file:
        return file["layers"][atlas.layer][...].tobytes()


class TestFile:
    def test_reads_as_anndata(self, atlas: SimulatedAtlas, cells: Any) -> None:
        assert cells.shape == (atlas.n_cells, atlas.n_genes) == (3000, 120)
        assert cells.X is None
        assert cells.var_names.is_unique
        assert cells.obs_names.is_unique
        assert tuple(cells.obs["cell_type"].cat.categories) == atlas.clusters == CLUSTERS
        assert list(cells.obs["batch"].cat.categories) == ["batch1", "batch2"]
        assert cells.obs["pseudotime"].between(0, 1).all()
        assert cells.var["regulator"].sum() == 11
        for key in ("X_pca", "X_fate"):
            assert cells.obsm[key].shape == (3000, 2)
            assert cells.obsm[key].dtype == np.float32
            assert np.isfinite(cells.obsm[key]).all()

    def test_survives_a_round_trip_through_anndata(self, cells: Any, tmp_path: Path) -> None:
        cells.write_h5ad(tmp_path / "copy.h5ad")
        again = anndata.read_h5ad(tmp_path / "copy.h5ad")
        np.testing.assert_array_equal(again.layers["M_t"], cells.layers["M_t"])
        assert again.obs.equals(cells.obs)

    def test_layer_is_contiguous_float32_and_lazily_readable(self, atlas: SimulatedAtlas, cells: Any) -> None:
        with h5py.File(atlas.cells, "r") as file:
            data = file["layers/M_t"]
            assert data.dtype == np.float32
            assert data.chunks is None
            lazy = read_elem_lazy(data)
            np.testing.assert_array_equal(lazy[100:110].compute(), cells.layers["M_t"][100:110])

    def test_expression_is_finite_and_not_negative(self, cells: Any) -> None:
        x = cells.layers["M_t"]
        assert np.isfinite(x).all()
        assert (x >= 0).all()
        assert 2 < x.max() < 100

    def test_names_of_layer_and_clusters_are_options(self, tmp_path: Path) -> None:
        simulated = simulate_atlas(tmp_path, n_cells=5, n_genes=12, layer="smooth", cluster_key="kind")
        adata = anndata.read_h5ad(simulated.cells)
        assert adata.layers["smooth"].shape == (5, 12)
        assert set(adata.obs["kind"]) <= set(simulated.clusters)

    @pytest.mark.parametrize(("n_cells", "block_cells"), [(1, 4096), (1, 1), (10, 3), (9, 3), (300, 257)])
    def test_block_edges(self, tmp_path: Path, n_cells: int, block_cells: int) -> None:
        seen: list[tuple[int, int]] = []
        simulated = simulate_atlas(
            tmp_path,
            n_cells=n_cells,
            n_genes=11,
            zero_fraction=0,
            block_cells=block_cells,
            progress=lambda done, total: seen.append((done, total)),
        )
        adata = anndata.read_h5ad(simulated.cells)
        assert (adata.layers["M_t"] > 0).all()
        assert list(adata.obs_names[[0, -1]]) == ["cell_0000000", f"cell_{n_cells - 1:07d}"]
        done = range(block_cells, n_cells + block_cells, block_cells)
        assert seen == [(min(n, n_cells), n_cells) for n in done]


class TestReproducibility:
    def test_same_seed_same_bytes(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"n_cells": 500, "n_genes": 40, "n_regulators": 15, "block_cells": 200}
        first = simulate_atlas(tmp_path / "a", seed=5, **options)
        second = simulate_atlas(tmp_path / "b", seed=5, **options)
        other = simulate_atlas(tmp_path / "c", seed=6, **options)
        fingerprints = [HopfieldField.open(a.field).fingerprint for a in (first, second, other)]
        assert layer_bytes(first) == layer_bytes(second) != layer_bytes(other)
        assert fingerprints[0] == fingerprints[1] != fingerprints[2]
        assert anndata.read_h5ad(first.cells).obs.equals(anndata.read_h5ad(second.cells).obs)

    def test_a_block_does_not_depend_on_how_many_follow(self, tmp_path: Path) -> None:
        short = simulate_atlas(tmp_path / "a", n_cells=100, n_genes=20, block_cells=100)
        long = simulate_atlas(tmp_path / "b", n_cells=250, n_genes=20, block_cells=100)
        assert layer_bytes(long).startswith(layer_bytes(short))

    def test_blocks_differ(self, cells: Any) -> None:
        x = cells.layers["M_t"]
        assert not np.array_equal(x[:700], x[700:1400])


class TestZeros:
    @pytest.mark.parametrize("zero_fraction", [0.2, 0.4, 0.8])
    @pytest.mark.parametrize("n_regulators", [11, 60])
    def test_fraction_of_zeros_is_the_one_asked_for(self, zero_fraction: float, n_regulators: int) -> None:
        network = grow_network(200, n_regulators, random_stream(1, "network"))
        sampler = CellSampler.of(network, zero_fraction, 1)
        zero = sampler.draw(4000, np.random.default_rng(0)).expression == 0
        assert zero.mean() == pytest.approx(zero_fraction, abs=0.01)
        assert zero[:, :11].mean() == pytest.approx(zero_fraction, abs=0.03)
        assert zero[:, :n_regulators].mean() == pytest.approx(zero_fraction, abs=0.03)

    def test_in_the_file(self, cells: Any) -> None:
        x = cells.layers["M_t"]
        assert (x == 0).mean() == pytest.approx(0.4, abs=0.01)
        assert (x[:, :11] > 0).sum(axis=1).mean() / 11 == pytest.approx(0.6, abs=0.03)

    def test_low_expression_drops_out_first(self) -> None:
        lossy = CellSampler.of(myeloid_network(), 0.3, 0)
        full = replace(lossy, capture=None)
        # Cells whose measurement is drawn before any dropout is, so that both samplers draw the same.
        x, complete = (s.draw(60, np.random.default_rng(0)).expression for s in (lossy, full))
        np.testing.assert_array_equal(x[x > 0], complete[x > 0])
        assert complete[x == 0].mean() < 0.3 * complete[x > 0].mean()


class TestField:
    def test_genes_and_clusters_are_those_of_the_cells(self, atlas: SimulatedAtlas, cells: Any) -> None:
        field = HopfieldField.open(atlas.field)
        assert list(field.genes) == list(cells.var_names)
        assert sorted(field.clusters) == sorted(CLUSTERS)
        np.testing.assert_array_equal(field.regulator_index, np.arange(11))
        velocity = field.velocity(cells.layers["M_t"][:5], "MEP")
        assert np.isfinite(velocity).all()

    def test_clusters_share_the_network_up_to_noise(self, atlas: SimulatedAtlas) -> None:
        first, second = HopfieldField.open(atlas.field).parameters[:2]
        assert not np.array_equal(first.weights, second.weights)
        np.testing.assert_array_equal(first.weights != 0, second.weights != 0)
        ratio = second.weights[first.weights != 0] / first.weights[first.weights != 0]
        # Two independent errors of 5 %: 0.35 is five standard deviations.
        assert np.abs(ratio - 1).max() < 0.35
        np.testing.assert_array_equal(first.gamma, second.gamma)

    @pytest.mark.parametrize("n_regulators", [11, 40])
    def test_signs_of_the_boolean_rules(self, n_regulators: int) -> None:
        network = grow_network(60, n_regulators, random_stream(0, "network"))
        expected = np.zeros((11, 11))
        for sign, rules in ((1, ACTIVATES), (-1, INHIBITS)):
            for effector, regulators in rules.items():
                for regulator in regulators:
                    i, j = TRANSCRIPTION_FACTORS.index(effector), TRANSCRIPTION_FACTORS.index(regulator)
                    expected[i, j] = sign
        for parameters in network_field(network, CLUSTERS, np.random.default_rng(0)).parameters:
            np.testing.assert_array_equal(np.sign(parameters.weights[:11, :11]), expected)

    @pytest.mark.parametrize(("n_genes", "n_regulators"), [(11, 11), (12, 12), (13, 12), (200, 99), (80, 80)])
    def test_exactly_the_regulators_asked_for(self, n_genes: int, n_regulators: int) -> None:
        for seed in range(5):
            network = grow_network(n_genes, n_regulators, random_stream(seed, "network"))
            field = network_field(network, ("all",), np.random.default_rng(seed))
            weights = field.parameters[0].weights
            assert weights.shape == (n_genes, n_regulators)
            assert len(set(network.genes)) == n_genes
            assert (weights != 0).any(axis=0).all()
            assert ((weights[11:] != 0).sum(axis=1) >= 1).all()
            assert (network.hill.exponent >= 1.5).all()
            assert (network.hill.threshold > 0).all()
            assert 0.3 <= network.gamma.min() <= network.gamma.max() <= 2.0

    def test_activation_is_that_of_the_field(self) -> None:
        network = grow_network(60, 50, random_stream(0, "network"))
        x = np.random.default_rng(0).uniform(0.01, 3.0, (40, 50))
        expected, _ = network.hill.take(np.arange(50)).evaluate(x)
        np.testing.assert_allclose(network.activation(x), expected, rtol=1e-12)

    def test_some_further_regulators_have_two_components(self) -> None:
        hill = grow_network(300, 150, random_stream(0, "network")).hill
        two = hill.mix < 1
        assert 0.15 < two[11:150].mean() < 0.45
        assert not two[:11].any()
        assert not two[150:].any()
        assert (hill.threshold2[two] > hill.threshold[two]).all()


class TestBiology:
    def test_fates_are_stable_fixed_points(self) -> None:
        field = factor_field()
        threshold = field.parameters[0].hill.threshold
        for on in FATES.values():
            start = np.where(np.isin(field.genes, on), 1.5, 0.05)
            x = relaxed(field, start[None])
            np.testing.assert_allclose(field.velocity(x, "all"), 0.0, atol=1e-9)
            # Off genes are above zero: a fixed point of the field itself, not of clipping.
            assert (x > 0.01).all()
            np.testing.assert_array_equal(x[0] > threshold, np.isin(field.genes, on))
            assert np.linalg.eigvals(field.jacobian(x, "all")[0]).real.max() < -0.4

    def test_trajectories_end_near_the_fixed_points_of_their_fate(self) -> None:
        field = factor_field()
        moments = integrate_trajectories(myeloid_network(), 256, random_stream(0, "trajectories"))
        cluster = assign_clusters(moments)[-1]
        for fate in FATES:
            ends = moments[-1][cluster == CLUSTERS.index(fate)].astype(float)
            assert len(ends) >= 0.08 * 256
            typical = np.median(ends, axis=0)[None]
            # A tenth of what separates on from off (1.5): the noise of one end is as large, and GATA2, the
            # slowest to decay, has a remnant of that size.
            np.testing.assert_allclose(typical, relaxed(field, typical), atol=0.15)
            assert np.abs(field.velocity(typical, "all")).max() < 0.15

    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("n_regulators", [11, 150])
    def test_every_fate_has_a_share(self, n_regulators: int, seed: int) -> None:
        network = grow_network(200, n_regulators, random_stream(seed, "network"))
        moments = integrate_trajectories(network, 256, random_stream(seed, "trajectories"))
        ends = assign_clusters(moments)[-1]
        share = np.bincount(ends, minlength=len(CLUSTERS)) / len(ends)
        assert (share[3:] >= 0.08).all()
        assert share[3:].sum() > 0.85

    def test_all_clusters_are_there_in_the_order_of_pseudotime(self, cells: Any) -> None:
        share = cells.obs["cell_type"].value_counts(normalize=True)
        assert (share > 0.02).all()
        time = cells.obs.groupby("cell_type", observed=True)["pseudotime"].mean()
        assert time["progenitor"] < time["MEP"] < min(time["erythrocyte"], time["megakaryocyte"])
        assert time["progenitor"] < time["GMP"] < min(time["monocyte"], time["granulocyte"])

    def test_markers_are_expressed_where_they_should_be(self, cells: Any) -> None:
        late = cells[cells.obs["pseudotime"] > 0.7]
        for fate, on in FATES.items():
            own = late[late.obs["cell_type"] == fate].layers["M_t"][:, :11].mean(axis=0)
            marked = np.isin(TRANSCRIPTION_FACTORS, on)
            assert own[marked].min() > 1.0 > 0.5 > own[~marked].max()

    def test_progenitors_are_unstable_and_committed_cells_are_not(
        self, atlas: SimulatedAtlas, cells: Any
    ) -> None:
        field = HopfieldField.open(atlas.field)
        abscissa = {}
        for label in atlas.clusters:
            late = cells.obs["pseudotime"] > (0.7 if label in FATES else 0.0)
            own = cells[(cells.obs["cell_type"] == label) & late].layers["M_t"][:60]
            abscissa[label] = np.linalg.eigvals(field.jacobian(own, label)).real.max(axis=1).mean()
        assert abscissa["progenitor"] > 0.3
        assert abscissa["MEP"] > 0.1
        assert max(abscissa[fate] for fate in FATES) < -0.1

    def test_many_regulators_have_bounded_spectra_of_their_own(self) -> None:
        network = grow_network(200, 150, random_stream(2, "network"))
        field = network_field(network, CLUSTERS, random_stream(2, "field"))
        x = CellSampler.of(network, 0.0, 2).draw(20, np.random.default_rng(0)).expression
        values = np.linalg.eigvals(field.jacobian(x, "progenitor"))
        assert np.abs(values).max() < 10
        # The further regulators are seen: most eigenvalues of the core are not simply -gamma of a gene.
        nearest = np.abs(values[..., None] + network.gamma).min(axis=2)
        assert (nearest > 1e-6).sum(axis=1).mean() > 75


class TestRefusals:
    @pytest.mark.parametrize("existing", ["cells.h5ad", "field.zarr"])
    def test_an_existing_atlas_is_kept(self, tmp_path: Path, existing: str) -> None:
        (tmp_path / existing).write_text("mine")
        with pytest.raises(StoreMismatchError, match=existing):
            simulate_atlas(tmp_path, n_cells=1, n_genes=11)
        assert (tmp_path / existing).read_text() == "mine"

    def test_overwrite_replaces_it(self, tmp_path: Path) -> None:
        simulate_atlas(tmp_path, n_cells=3, n_genes=11)
        atlas = simulate_atlas(tmp_path, n_cells=4, n_genes=12, overwrite=True)
        assert anndata.read_h5ad(atlas.cells).shape == (4, 12)
        assert HopfieldField.open(atlas.field).n_genes == 12
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.h5ad", "field.zarr"]

    def test_an_interrupted_simulation_leaves_nothing(self, tmp_path: Path) -> None:
        def interrupt(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            simulate_atlas(tmp_path, n_cells=10, n_genes=11, block_cells=5, progress=interrupt)
        assert list(tmp_path.iterdir()) == []

    def test_an_interrupted_overwrite_leaves_the_old_atlas(self, tmp_path: Path) -> None:
        def interrupt(done: int, total: int) -> None:
            raise KeyboardInterrupt

        atlas = simulate_atlas(tmp_path, n_cells=3, n_genes=11)
        before = layer_bytes(atlas)
        with pytest.raises(KeyboardInterrupt):
            simulate_atlas(tmp_path, n_cells=10, n_genes=11, overwrite=True, progress=interrupt)
        assert layer_bytes(atlas) == before

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(OutputError, match=r"cells\.h5ad"):
                simulate_atlas(folder, n_cells=1, n_genes=11)

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"n_cells": 0}, "n_cells is 0"),
            ({"block_cells": 0}, "block_cells is 0"),
            ({"n_regulators": 10}, "n_regulators is 10"),
            ({"n_genes": 20, "n_regulators": 21}, "n_genes is 20"),
            ({"n_genes": 10}, "n_genes is 10"),
            ({"zero_fraction": -0.1}, "zero_fraction is -0.1"),
            ({"zero_fraction": 0.96}, "zero_fraction is 0.96"),
            ({"zero_fraction": float("nan")}, "zero_fraction is nan"),
            ({"seed": -1}, "seed is -1"),
            ({"layer": ""}, "layer is ''"),
            ({"layer": "a/b"}, "layer is 'a/b'"),
            ({"cluster_key": "batch"}, "cluster_key is 'batch'"),
        ],
    )
    def test_options_out_of_range(self, tmp_path: Path, options: dict[str, Any], named: str) -> None:
        with pytest.raises(UsageError, match=named):
            simulate_atlas(tmp_path / "new", **options)
        assert not (tmp_path / "new").exists()
