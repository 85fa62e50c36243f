"""The command line: output, exit codes, and bad input refused with a clear message and nothing written."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from small_atlas import Small, make_small

import stabdask as sd
from stabdask.cli.arguments import parse_elements
from stabdask.cli.main import main
from stabdask.errors import StabdaskError, UsageError
from stabdask.kernels import eig
from stabdask.runs.options import GROUPS
from stabdask.schema import QUANTITIES


def job(small, *more: str, layer: str = "M_t", key: str = "state") -> list[str]:
    return [str(small.atlas), "--field", str(small.field), "--layer", layer, "--cluster-key", key, *more]


def run(small, *more: str, **keys: str) -> list[str]:
    store = small.atlas.parent / "out.zarr"
    return ["run", *job(small, "--store", str(store), "--workers", "0", "--quiet", *more, **keys)]


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def refused(capsys, arguments: list[str], folder: Path, code: int = 3) -> str:
    """Return the message of a command that must fail with `code` and write nothing."""
    before = snapshot(folder)
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stabdask: error: ") or "usage:" in err
    assert "Traceback" not in err
    assert snapshot(folder) == before
    return err


def change(small, function) -> None:
    with h5py.File(small.atlas, "r+") as file:
        function(file)


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = make_small(tmp_path_factory.mktemp("run"))
    assert main(run(small, "--elements", "g00:g01,g05:g05")) == 0
    return small.atlas.parent / "out.zarr"


@pytest.fixture
def finished(run_once: Path, tmp_path: Path, capsys) -> Path:
    """Give a copy of a store made of an atlas like `small`, which lies elsewhere."""
    capsys.readouterr()
    return Path(shutil.copytree(run_once, tmp_path / "out.zarr"))


# ------------------------------------------------------------------------------------ bad input


def test_missing_layer(small, capsys, tmp_path) -> None:
    assert "no layer 'Mt' in cells.h5ad; did you mean 'M_t'?" in refused(
        capsys, run(small, layer="Mt"), tmp_path
    )


def test_missing_cluster_key(small, capsys, tmp_path) -> None:
    message = refused(capsys, run(small, key="stat"), tmp_path)
    assert "no column 'stat' in obs of cells.h5ad; did you mean 'state'?" in message


def test_missing_parameter_column(fitted, capsys, tmp_path) -> None:
    adata = anndata.read_h5ad(fitted.field)
    del adata.var["sigmoid_exponent"]
    adata.write_h5ad(fitted.field)
    message = refused(capsys, run(fitted), tmp_path)
    assert "no column 'sigmoid_exponent' in var of fitted.h5ad" in message
    assert "did you mean 'sigmoid_exponent2'" in message


def test_negative_expression(small, capsys, tmp_path) -> None:
    change(small, lambda file: file["layers/M_t"].__setitem__((17, 4), -0.5))
    message = refused(capsys, run(small), tmp_path)
    assert "gene 'g04' in cell 'c17' is -0.5" in message
    assert "expected values >= 0" in message


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("sigmoid_threshold", 0.0, "sigmoid_threshold in cluster"),
        ("sigmoid_threshold", -1.0, "must be finite and > 0 for regulators"),
        ("sigmoid_exponent", np.nan, "sigmoid_exponent in cluster"),
        ("sigmoid_mix", np.nan, "sigmoid_mix in cluster"),
        ("gamma_a", np.nan, "gamma of cluster 'a' is missing or not finite"),
        ("gamma_a", np.inf, "gamma of cluster 'a' is missing or not finite"),
        ("I_a", np.nan, "I of cluster 'a' is missing or not finite"),
    ],
)
def test_impossible_parameters(fitted, capsys, tmp_path, column, value, says) -> None:
    adata = anndata.read_h5ad(fitted.field)
    field = sd.read_field(fitted.field)
    gene = str(field.genes[field.parameters[field.cluster_number("a")].regulators[0]])
    adata.var.loc[gene, column] = value
    adata.write_h5ad(fitted.field)
    message = refused(capsys, run(fitted), tmp_path)
    assert says in message
    assert gene in message


def test_infinite_slope(small, capsys, tmp_path) -> None:
    field = sd.HopfieldField.open(small.field)
    regulator = int(field.parameters[0].regulators[0])
    clusters = {}
    for label, p in zip(field.clusters, field.parameters, strict=True):
        exponents = p.hill.exponent.copy()
        exponents[regulator] = 0.5
        clusters[label] = replace(p, hill=replace(p.hill, exponent=exponents, exponent2=exponents))
    sd.HopfieldField(field.genes.tolist(), clusters).save(tmp_path / "steep.zarr")
    arguments = run(small)
    arguments[arguments.index("--field") + 1] = str(tmp_path / "steep.zarr")
    message = refused(capsys, arguments, tmp_path)
    assert "Hill exponent 0.5 < 1 and expression 0 in cell" in message
    assert repr(str(field.genes[regulator])) in message


def test_nan_weight(fitted, capsys, tmp_path) -> None:
    adata = anndata.read_h5ad(fitted.field)
    field = sd.read_field(fitted.field)
    regulator = int(field.parameters[field.cluster_number("a")].regulators[2])
    W = np.array(adata.varp["W_a"])
    W[3, regulator] = np.nan
    adata.varp["W_a"] = W
    adata.write_h5ad(fitted.field)
    message = refused(capsys, ["field", "show", str(fitted.field)], tmp_path)
    assert f"W of cluster 'a' is nan at effector 'g03', regulator {str(field.genes[regulator])!r}" in message


def test_genes_absent_from_the_atlas(small, capsys, tmp_path) -> None:
    adata = anndata.read_h5ad(small.atlas)
    adata.var_names = ["G02" if name == "g02" else name for name in adata.var_names]
    adata.write_h5ad(small.atlas)
    message = refused(capsys, run(small), tmp_path)
    assert "lacks gene 'g02'; did you mean 'G02'" in message


def test_duplicate_gene_names(small, capsys, tmp_path) -> None:
    adata = anndata.read_h5ad(small.atlas)
    adata.var_names = ["g01" if name == "g00" else name for name in adata.var_names]
    adata.write_h5ad(small.atlas)
    assert "gene names repeat in cells.h5ad ('g01')" in refused(capsys, run(small), tmp_path)


def test_zero_cells(small, capsys, tmp_path) -> None:
    anndata.read_h5ad(small.atlas)[:0].copy().write_h5ad(small.atlas)
    assert "cells.h5ad has no cells" in refused(capsys, run(small), tmp_path)


def test_unknown_genes_in_elements(small, capsys, tmp_path) -> None:
    message = refused(capsys, run(small, "--elements", "g00:g1"), tmp_path)
    assert "gene 'g1' in --elements is not in the field; did you mean 'g1" in message
    assert "expected effector:regulator" in refused(capsys, run(small, "--elements", "g00"), tmp_path, 2)
    assert "cannot read the pairs in" in refused(
        capsys, run(small, "--elements", "@nowhere.txt"), tmp_path, 2
    )


def test_cluster_without_parameters(small, capsys, tmp_path) -> None:
    field = sd.HopfieldField.open(small.field)
    fewer = sd.HopfieldField(
        field.genes.tolist(),
        {k: p for k, p in zip(field.clusters, field.parameters, strict=True) if k != "a"},
    )
    fewer.save(tmp_path / "fewer.zarr")
    arguments = run(small)
    arguments[arguments.index("--field") + 1] = str(tmp_path / "fewer.zarr")
    message = refused(capsys, arguments, tmp_path)
    assert "no parameters (W_<cluster>) for 'a'" in message
    assert "missing_cluster='skip' (--missing-cluster skip)" in message
    assert "is not possible" in refused(capsys, [*arguments, "--missing-cluster", "W_z"], tmp_path)
    assert main([*arguments, "--missing-cluster", "skip", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["status_counts"]["no_model"] > 0
    assert report["n_failed"] == 0


def test_a_cluster_key_left_out_is_said_once(small, capsys, tmp_path) -> None:
    field = sd.HopfieldField.open(small.field)
    clusters = dict(zip(field.clusters, field.parameters, strict=True))
    more = sd.HopfieldField(field.genes.tolist(), {**clusters, "all": field.parameters[0]})
    more.save(tmp_path / "more.zarr")
    store = str(tmp_path / "out.zarr")
    job = [
        "run",
        str(small.atlas),
        "--field",
        str(tmp_path / "more.zarr"),
        "--layer",
        "M_t",
        "--store",
        store,
    ]
    for arguments in ([*job, "--dry-run"], [*job, "--workers", "0", "--quiet"]):
        assert main(arguments) == 0
        err = capsys.readouterr().err
        assert err.count("stabdask: warning: every cell gets the parameters of cluster 'all'") == 1
        assert "others: '../x', 'a', 'b/c'; to use those give the column of obs with them" in err
    assert main([*run(small), "--store", str(tmp_path / "with.zarr")]) == 0
    assert "warning: every cell" not in capsys.readouterr().err


def test_memory_too_small(small, capsys, tmp_path) -> None:
    message = refused(capsys, run(small, "--memory", "10MB"), tmp_path)
    assert "a memory budget of 10 MB is too small; the least that works is" in message
    least = message.split("the least that works is ")[1].split(" for ")[0].replace(" ", "")
    assert main(run(small, "--memory", least, "--dry-run")) in (0, 3)  # rounding of the figure shown
    assert main(run(small, "--memory", "2GB")) == 0
    assert "is no size" in capsys.readouterr().err or True
    assert "is no size" in refused(capsys, run(small, "--memory", "lots"), tmp_path, 2)
    message = refused(capsys, run(small, "--memory", "4"), tmp_path)
    assert "a memory budget of 4 B is too small ('4' is 4 bytes: did you mean '4GB'?); the least" in message
    assert "did you mean" not in refused(capsys, run(small, "--memory", "4MB"), tmp_path)


def test_missing_files(small, capsys, tmp_path) -> None:
    arguments = run(small)
    arguments[1] = str(tmp_path / "cell.h5ad")
    assert "files of that kind there: cells.h5ad" in refused(capsys, arguments, tmp_path)
    for command in ("status", "verify", "summary"):
        assert "no store at" in refused(capsys, [command, str(tmp_path / "none.zarr")], tmp_path)
    assert "is not a stabdask store" in refused(capsys, ["status", str(small.field)], tmp_path, 5)


def test_a_text_file_is_no_atlas(small, capsys, tmp_path) -> None:
    (tmp_path / "notes.h5ad").write_text("not HDF5")
    arguments = run(small)
    arguments[1] = str(tmp_path / "notes.h5ad")
    assert "is neither an h5ad file nor a zarr AnnData" in refused(capsys, arguments, tmp_path)
    arguments = run(small)
    arguments[arguments.index("--field") + 1] = str(tmp_path / "notes.h5ad")
    assert "is not an HDF5 file" in refused(capsys, arguments, tmp_path)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--tolerance", "-1"], "tolerance=-1.0"),
        (["--modes", "0"], "modes=0"),
        (["--allow-failed", "2"], "--allow-failed 2.0"),
        (["--workers", "-1"], "workers=-1"),
        (["--partition-cells", "0"], "partition_cells=0"),
        (["--spectrum", "none", "--vectors", "right"], "needs a spectrum"),
        (["--backend", "abacus"], "backend 'abacus' is not available here"),
        (["--dtype", "float16"], "invalid choice: 'float16'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_usage_errors(small, capsys, tmp_path, more, says) -> None:
    assert says in refused(capsys, run(small, *more), tmp_path, 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["summry", "out.zarr"], "'field'); did you mean 'summary'? See 'stabdask --help'"),
        (["network", "edgs"], "did you mean 'edges'? See 'stabdask network --help'"),
        (["status", "o", "--jsn"], "arguments: --jsn; did you mean '--json'? See 'stabdask status --help'"),
        (["field", "show", "o", "--bass=pca"], "did you mean '--basis'? See 'stabdask field show --help'"),
        (["status", "o", "more"], "unrecognized arguments: more; see 'stabdask status --help'"),
        (["status", "o", "--zzzzzz"], "unrecognized arguments: --zzzzzz; see 'stabdask status --help'"),
        (["--jso", "status", "o"], "unrecognized arguments: --jso; see 'stabdask --help'"),
    ],
)
def test_near_misses_of_commands_and_options(capsys, tmp_path, arguments, says) -> None:
    message = refused(capsys, arguments, tmp_path, 2)
    assert message.endswith(f"{says}\n")


def test_a_misspelt_option_of_a_run(small, capsys, tmp_path) -> None:
    message = refused(capsys, run(small, "--wrokers", "2"), tmp_path, 2)
    assert "unrecognized arguments: --wrokers 2; did you mean '--workers'" in message
    assert message.endswith("? See 'stabdask run --help'\n")


def help_of(capsys, *command: str) -> str:
    assert main([*command, "--help"]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["run", "plan", "init"])
def test_help_lists_what_may_be_computed(capsys, command) -> None:
    text = help_of(capsys, command)
    listed = set(re.findall(r"\w+", text.split("names of --quantities")[1]))
    assert set(QUANTITIES) <= listed
    assert set(GROUPS) <= listed
    backends = re.findall(r"--backend NAME (.*?) --", text)[0]
    assert {*eig._NAMES, "auto", "krylov"} <= set(re.findall(r"\w+", backends))
    assert "--dtype {float64,float32} of the eigensolver (float64)" in text
    assert "print numbers as JSON" in text


@pytest.mark.parametrize("command", ["doctor", "plan", "status", "verify", "summary"])
def test_help_says_what_a_command_does(capsys, command) -> None:
    assert main([command, "--help"]) == 0
    described = capsys.readouterr().out.split("\n\n")[1]
    assert described.endswith(".")
    assert len(described.split()) > 12


def test_help_says_what_is_wrong_with_modules_of_others(capsys, monkeypatch) -> None:
    def broken() -> str:
        raise UsageError("no such module")

    monkeypatch.setattr("stabdask.cli.arguments._quantities_listing", broken)
    assert main(["run", "--help"]) == 2
    assert capsys.readouterr().err == "stabdask: error: no such module\n"


def test_no_command(capsys, tmp_path) -> None:
    assert "the following arguments are required: COMMAND" in refused(capsys, [], tmp_path, 2)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"stabdask {sd.__version__}\n"


# --------------------------------------------------------------------------------- cells that fail


def test_failed_cells_are_counted(small, capsys) -> None:
    def spoil(file: h5py.File) -> None:
        file["layers/M_t"][3, 2] = np.nan
        file["layers/M_t"][5, 1] = np.inf
        file["obs/state/codes"][7] = -1

    change(small, spoil)
    assert main(run(small)) == 4
    out, err = capsys.readouterr()
    assert "227 ok, 3 without finite input or label" in out
    assert "3 of 230 cells have a failed status" in err
    assert main(run(small, "--allow-failed", "0.02")) == 0
    ds = sd.open_results(small.atlas.parent / "out.zarr")
    failed = ds.isel(cell=[3, 5, 7])
    assert failed["status"].values.tolist() == [3, 3, 3]
    assert np.isnan(failed["spectral_abscissa"].values).all()
    assert ds["cell_cluster"].isnull().values.nonzero()[0].tolist() == [7]
    assert np.isfinite(np.delete(ds["spectral_abscissa"].values, [3, 5, 7])).all()


# ------------------------------------------------------------------------------------------ output


def test_run_prints_a_report_and_says_when_all_is_done(small, capsys) -> None:
    arguments = [item for item in run(small) if item != "--quiet"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "cells        230: 230 ok" in out
    assert "230 of 230 cells" in err
    assert "\r" not in err
    assert main(arguments) == 0
    assert "nothing to do: every partition has its receipt" in capsys.readouterr().out


def test_plan_and_dry_run_write_nothing(small, capsys, tmp_path) -> None:
    before = snapshot(tmp_path)
    assert main(["plan", *job(small, "--json", "--memory", "2GB")]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["n_cells"] == 230
    assert plan["peak_bytes"] <= plan["memory_bytes"] == 2_000_000_000
    assert main(run(small, "--dry-run")) == 0
    assert "partitions" in capsys.readouterr().out
    assert main(["demo", "--dry-run", "--keep", str(tmp_path / "demo")]) == 0
    assert "would simulate 20,000 cells" in capsys.readouterr().out
    assert snapshot(tmp_path) == before


def test_status_verify_summary(finished, capsys) -> None:
    assert main(["status", str(finished), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"] is True
    assert main(["verify", str(finished), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["n_cells_checked"] == 8
    assert main(["summary", str(finished)]) == 0
    table = capsys.readouterr().out
    assert table.splitlines()[0].split()[:4] == ["cluster", "cells", "failed", "abscissa"]
    assert "speed" in table.splitlines()[0]
    assert {"a", "b/c", "../x"} <= {line.split()[0] for line in table.splitlines()[2:]}
    assert main(["summary", str(finished), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    ds = sd.open_results(finished)
    member = ds["cell_cluster"].values == "b/c"
    expected = float(ds["spectral_abscissa"].values[member].mean())
    assert summary["b/c"]["spectral_abscissa"]["mean"] == pytest.approx(expected, rel=1e-12)
    assert summary["b/c"]["n_cells"] == member.sum()
    assert set(summary["a"]["element"]) == {"g00:g01", "g05:g05"}
    assert main(["summary", str(finished), "--quantity", "element"]) == 0
    assert "Jacobian elements (1/time)" in capsys.readouterr().out
    assert main(["summary", str(finished), "--quantity", "trance"]) == 3
    assert "did you mean 'trace'" in capsys.readouterr().err
    assert main(["summary", str(finished), "--extremes", "--json"]) == 0
    extremes = json.loads(capsys.readouterr().out)
    spectrum = sd.complete_spectrum(ds).values
    assert extremes["a"]["largest"]["real"] == pytest.approx(
        spectrum[ds["cell_cluster"].values == "a"].real.max(), rel=1e-12
    )
    assert main(["summary", str(finished), "--extremes"]) == 0
    assert "largest_cell" in capsys.readouterr().out


def test_verify_exits_5_on_damage(finished, capsys) -> None:
    chunk = finished / "trace" / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    assert main(["verify", str(finished)]) == 5
    assert "NOT OK" in capsys.readouterr().out


def test_verify_takes_a_moved_atlas(small, capsys) -> None:
    assert main(run(small)) == 0
    capsys.readouterr()
    finished = small.atlas.parent / "out.zarr"
    moved = small.atlas.rename(small.atlas.with_name("moved.h5ad"))
    assert main(["verify", str(finished)]) == 0
    assert "oracle       not used: no atlas at" in capsys.readouterr().out
    assert main(["verify", str(finished), "--atlas", str(moved)]) == 0
    assert "8 cells against dense Jacobians" in capsys.readouterr().out


def test_export(small, finished, capsys, tmp_path) -> None:
    output = tmp_path / "with.h5ad"
    arguments = ["export", str(finished), "--atlas", str(small.atlas), "-o", str(output)]
    assert main([*arguments, "--dry-run"]) == 0
    assert "would add stability_spectral_abscissa" in capsys.readouterr().out
    assert not output.exists()
    assert main([*arguments, "--eigenvalues", "--json"]) == 0
    added = json.loads(capsys.readouterr().out)["added"]
    assert "stability_element_g00:g01" in added
    ds = sd.open_results(finished)
    adata = anndata.read_h5ad(output)
    np.testing.assert_array_equal(adata.obs["stability_trace"], ds["trace"].values)
    assert adata.obsm["stability_eigenvalue"].dtype == np.complex128
    assert main(arguments) == 5
    says = "exists; remove it, choose another path, or ask to overwrite (--overwrite, overwrite=True)"
    assert says in capsys.readouterr().err


def annotated(small) -> None:
    def add(file: h5py.File) -> None:
        from anndata.io import write_elem

        write_elem(file["obs"], "age", np.arange(230.0))
        file["obs"].attrs["column-order"] = ["state", "age"]
        write_elem(file, "obsm", {"X_umap": np.zeros((230, 2))})

    change(small, add)


def test_annotations_come_along(small, capsys, tmp_path) -> None:
    annotated(small)
    arguments = ["--obs", "kind=state, age", "--embedding", "X_umap"]
    assert main(["plan", *job(small, *arguments)]) == 0
    assert main(run(small, *arguments)) == 0
    ds = sd.open_results(tmp_path / "out.zarr")
    assert ds["kind"].values.tolist() == ds["cell_cluster"].values.tolist()
    assert ds["age"].values.tolist() == list(range(230))
    assert ds["X_umap"].shape == (230, 2)
    capsys.readouterr()
    message = refused(capsys, run(small, "--obs", "age"), tmp_path, 5)
    assert "another run: --embedding: 'X_umap' there alone; --obs: 'kind' there alone. Nothing" in message
    assert f"repeat the run it belongs to: 'stabdask run --store {tmp_path / 'out.zarr'}'" in message
    assert main(["verify", str(tmp_path / "out.zarr")]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--obs", "stat"], 3, "no column 'stat' in obs of cells.h5ad; did you mean 'state'?"),
        (["--embedding", "X_unap"], 3, "no embedding 'X_unap' in obsm of cells.h5ad; did you mean 'X_umap'?"),
        (["--obs", "speed"], 2, "results use the name 'speed' themselves"),
        (["--obs", "age,age"], 2, "--obs names 'age' twice"),
        (["--obs", "=age"], 2, "--obs '=age' is no name; expected NAME or NEW_NAME=NAME"),
        (["--embedding", "umap="], 2, "--embedding 'umap=' is no name"),
    ],
)
def test_annotations_that_are_refused(small, capsys, tmp_path, arguments, code, message) -> None:
    annotated(small)
    assert message in refused(capsys, run(small, *arguments), tmp_path, code)


def test_export_in_place_and_again(small, finished, capsys) -> None:
    arguments = ["export", str(finished), "--atlas", str(small.atlas), "--in-place"]
    before = small.atlas.read_bytes()
    assert main([*arguments, "--dry-run"]) == 0
    assert "would add stability_spectral_abscissa" in capsys.readouterr().out
    assert small.atlas.read_bytes() == before
    assert main(arguments) == 0
    assert "230 of 230 cells of the atlas are in the results" in capsys.readouterr().out
    assert main([*arguments, "--quantities", "speed", "--elements", "g05:g05", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["added"] == ["stability_speed", "stability_status", "stability_element_g05:g05"]
    assert "stability_trace" in values["removed"]
    adata = anndata.read_h5ad(small.atlas)
    assert [name for name in adata.obs if "stability" in name] == values["added"]
    ds = sd.open_results(finished)
    np.testing.assert_array_equal(adata.obs["stability_element_g05:g05"], ds["element"].values[:, 1])
    assert adata.uns["stability_run"]["store"] == str(finished)


def test_export_tables(small, finished, capsys, tmp_path) -> None:
    table = tmp_path / "cells.csv"
    arguments = ["export", str(finished), "-o", str(table)]
    assert main([*arguments, "--dry-run"]) == 0
    assert "would write 230 rows of cell, cluster, spectral_abscissa" in capsys.readouterr().out
    assert not table.exists()
    assert main([*arguments, "--elements", "none", "--quantities", "speed,trace"]) == 0
    ds = sd.open_results(finished)
    back = pd.read_csv(table, float_precision="round_trip")
    assert back.columns.tolist() == ["cell", "cluster", "trace", "speed", "status"]
    np.testing.assert_array_equal(back["speed"], ds["speed"].values)
    capsys.readouterr()
    assert "exists; remove it" in refused(capsys, arguments, tmp_path, 5)
    assert main([*arguments, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"][-1] == "element_g05:g05"
    summary = tmp_path / "summary.csv"
    assert main(["export", str(finished), "--summary", "-o", str(summary), "--json"]) == 0
    rows = pd.read_csv(summary)
    assert json.loads(capsys.readouterr().out)["rows"] == len(rows)
    assert set(rows["cluster"]) == set(ds["cluster"].values)
    mean = rows.query("quantity == 'speed' and cluster == '../x'")["mean"].item()
    assert mean == pytest.approx(ds["speed"].values[ds["cell_cluster"].values == "../x"].mean())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nowhere to write; expected -o OUTPUT, or --atlas ATLAS --in-place"),
        (["--in-place"], 2, "--in-place needs --atlas"),
        (["--in-place", "-o", "{}/x.h5ad", "--atlas", "{}/cells.h5ad"], 2, "expected no --output beside it"),
        (["-o", "{}/x.h5ad"], 2, "is to be an AnnData; expected --atlas, the one to copy"),
        (["-o", "{}/x.txt"], 2, "is no table; expected a name that ends in .csv"),
        (["-o", "{}/x.csv", "--by", "state"], 2, "--by goes with --summary"),
        (["-o", "{}/x.csv", "--eigenvalues"], 2, "--eigenvalues goes with --atlas"),
        (["-o", "{}/x.h5ad", "--summary", "--atlas", "{}/cells.h5ad"], 2, "--summary goes with no --atlas"),
        (
            ["-o", "{}/x.csv", "--summary", "--prefix", "a"],
            2,
            "expected no --quantities, --elements or --prefix",
        ),
        (["-o", "{}/x.csv", "--summary", "--by", "clustr"], 3, "no label 'clustr' for cells; did you mean"),
        (
            ["-o", "{}/x.csv", "--quantities", "sped"],
            3,
            "no quantity 'sped' in the results; did you mean 'speed'",
        ),
        (["-o", "{}/x.csv", "--elements", "g00:g02"], 3, "no element 'g00:g02' in the results"),
        (["-o", "{}/x.csv", "--elements", "g00:h"], 3, "gene 'h' in --elements is not in the field"),
        (
            ["-o", "{}/x.zarr", "--atlas", "{}/cells.h5ad"],
            2,
            "does not end in .h5ad, the format of cells.h5ad",
        ),
        (["-o", "{}/x.h5ad", "--atlas", "{}/cels.h5ad"], 3, "no atlas at"),
    ],
)
def test_exports_that_are_refused(small, finished, capsys, tmp_path, arguments, code, message) -> None:
    filled = [argument.format(tmp_path) for argument in arguments]
    assert message in refused(capsys, ["export", str(finished), *filled], tmp_path, code)


def test_field_show_and_convert(fitted, capsys, tmp_path) -> None:
    field = sd.HopfieldField.open(tmp_path / "field.zarr")
    arguments = ["field", "convert", str(fitted.field), str(tmp_path / "model.zarr")]
    assert main([*arguments, "--dry-run"]) == 0
    assert not (tmp_path / "model.zarr").exists()
    assert main([*arguments, "--json"]) == 0
    capsys.readouterr()
    assert sd.read_field(tmp_path / "model.zarr").fingerprint == field.fingerprint
    assert main(arguments) == 5
    assert main([*arguments, "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["field", "show", str(tmp_path / "model.zarr"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["n_genes"] == 20
    assert set(facts["clusters"]) == {"a", "b c", "<x>"}
    assert main(["field", "show", str(fitted.field)]) == 0
    assert "20 genes" in capsys.readouterr().out


def test_doctor(capsys, tmp_path) -> None:
    assert main(["doctor", "--scratch", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scratch"]["ok"]
    assert "lapack" in found["backends"]
    assert list(tmp_path.iterdir()) == []
    assert main(["doctor", "--scratch", str(tmp_path / "none")]) == 3
    assert "cannot make a folder" in capsys.readouterr().out


def test_demo(capsys, tmp_path) -> None:
    arguments = ["demo", "--cells", "200", "--genes", "40", "--keep", str(tmp_path / "d"), "--workers", "0"]
    assert main(arguments) == 0
    out, _ = capsys.readouterr()
    assert "progenitor" in out
    assert "Try next:" in out
    for figure in ("cells.png", "spectrum.png"):
        assert str(tmp_path / "d" / figure) in out
        assert (tmp_path / "d" / figure).stat().st_size > 10_000
    assert sd.verify(tmp_path / "d" / "out.zarr").ok
    for line in out.split("Try next:")[1].strip().splitlines():
        words = line.split()
        assert words[0] == "stabdask"
        assert main(words[1:]) == 0, line
    capsys.readouterr()
    assert main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main([*arguments, "--seed", "1"]) == 3
    assert "holds another atlas" in capsys.readouterr().err


def test_several_files_are_one_atlas(small, capsys, tmp_path) -> None:
    second = tmp_path / "more.zarr"
    other = anndata.read_h5ad(small.atlas)[:50, ::-1].copy()
    other.obs_names = [f"more-{name}" for name in other.obs_names]
    other.write_zarr(second)
    arguments = run(small, "--json")
    arguments.insert(2, str(second))
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["n_cells"] == 280
    ds = sd.open_results(tmp_path / "out.zarr")
    np.testing.assert_allclose(ds["trace"].values[230:], ds["trace"].values[:50], rtol=1e-12)


# ------------------------------------------------------------------------------------------ pieces


def test_elements_from_a_file(tmp_path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("g1\tg2\n\ng2:g1\na,b\tg1\n")
    assert parse_elements(f"@{path}", {"g1", "g2", "a,b"}) == [("g1", "g2"), ("g2", "g1"), ("a,b", "g1")]
    assert parse_elements("", {"g1"}) == []
    with pytest.raises(UsageError):
        parse_elements("g1", {"g1"})


def test_every_error_has_an_exit_code_and_a_standard_base() -> None:
    def family(base: type) -> set[type]:
        return {base}.union(*(family(sub) for sub in base.__subclasses__()))

    errors = family(StabdaskError) - {StabdaskError}
    assert len(errors) > 10
    for error in errors:
        assert error.exit_code in (1, 2, 3, 5)
        assert any(base.__module__ == "builtins" and base is not Exception for base in error.__mro__[:-3])


def test_drivers_as_text_and_json(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "drivers.zarr"
    asked = [
        "run", str(small.atlas), "--field", str(small.field), "--layer", "M_t", "--cluster-key", "state", "--store",
        str(store), "--workers", "0", "--quiet", "--quantities", "default,drivers",
    ]  # fmt: skip
    assert main(asked) == 0
    capsys.readouterr()
    assert main(["drivers", str(store), "--top", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    ds = sd.open_results(store)
    assert list(found) == ds["cluster"].values.tolist()
    for label, entry in found.items():
        assert entry["n_cells"] == int(ds["driver_cells"].sel(cluster=label)[0])
        expected = sd.driver_edges(ds, label, top=3)
        assert [edge["regulator"] for edge in entry["edges"]] == expected["regulator"].tolist()
        assert len(entry["genes"]) == 3
    assert main(["drivers", str(store), "--cluster", "a", "--by", "contribution"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("a: mode 0 of ")
    assert "../x" not in text
    assert main(["drivers", str(store), "--cluster", "A"]) == 3
    assert "did you mean 'a'" in capsys.readouterr().err
