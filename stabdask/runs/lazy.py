"""`stability`: the result as a lazy Dataset, computed by Dask when it is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.atlas.annotations import attach_annotations
from stabdask.fields.base import Field
from stabdask.runs.annotations import cluster_colors
from stabdask.runs.block import compute_block
from stabdask.runs.job import prepare
from stabdask.runs.labels import label_results
from stabdask.runs.parameters import parameter_dims, parameter_values, result_names
from stabdask.runs.shapes import empty_arrays, output_shapes
from stabdask.schema import VARIABLES

if TYPE_CHECKING:
    import xarray as xr

    from stabdask.runs.options import Options

__all__ = ["stability"]


def stability(
    cells: xr.Dataset, field: Field, *, missing_cluster: str = "error", **options: Any
) -> xr.Dataset:
    """Return the stability of every cell as a lazy, labelled Dataset on Dask arrays.

    Nothing is computed but a check of the input. One task per block computes all variables together, so
    compute what you want of them in one go: ``ds[["spectral_abscissa", "speed"]].compute()``. For an atlas
    that does not fit in memory, or that must not be lost, use `stabdask.run`.

    Parameters
    ----------
    cells
        From `stabdask.open_cells`.
    field
        From `stabdask.read_field`.
    missing_cluster
        ``"error"``, ``"skip"`` or ``"W_<cluster>"``: see `stabdask.runs.job.prepare`.
    **options
        ``spectrum`` : {"full", "leading", "none"}
            Which eigenvalues to keep: all of each core, the `modes` leading ones, or none. Leading ones of cores
            of order 400 and more are iterated for; counts are then given only where they are certain, else -1,
            and `stabdask.run` compares a sample of cells with dense spectra.
        ``modes`` : int, default 10
            Number of leading modes with vectors (and, with ``spectrum="leading"``, eigenvalues), and of those that
            quantities by mode are of; 3 by default where these are all that vectors are for.
        ``vectors`` : {"none", "right", "both"}
            Which eigenvectors to keep.
        ``elements`` : sequence of (effector, regulator)
            Elements of the Jacobian to keep.
        ``effectors``, ``regulators`` : sequence of str
            Genes between which quantities such as ``"jacobian"`` (the default with these), ``"jacobian_mean"``,
            ``"response"`` and ``"dynamo_sensitivity"`` are taken: all effectors by all regulators.
        ``quantities`` : sequence of str
            What to keep beside eigenvalues, vectors and elements: names of `stabdask.schema.QUANTITIES`;
            ``"default"`` stands for all scalars that come at little cost (which is what is kept if nothing is
            named), ``"drivers"`` for what `stabdask.driver_genes` and `stabdask.driver_edges` read. So
            ``["default", "reactivity", "drivers"]`` adds to what is usual.
        ``dtype`` : {"float64", "float32"}
            Precision of the eigensolver.
        ``backend`` : str, default "auto"
            Eigensolver: ``"lanes"`` (compiled), ``"lapack"``, ``"lanes:300"`` (LAPACK above order 300),
            ``"krylov"`` (an iteration, for leading modes) or ``"auto"``, which chooses by what was measured
            on this machine.
        ``tolerance`` : float, default 0
            Real parts within plus or minus this (1/time) count neither as stable nor as unstable.
        ``residual_tolerance`` : float, default 1e-6
            Relative residual at which an iteration takes a leading mode as found.

    Returns
    -------
    xarray.Dataset
        The variables of `stabdask.schema.VARIABLES` that were asked for, and what was brought along from the atlas
        (see `stabdask.open_cells`).

    Raises
    ------
    StabdaskError
        If cells, field and options do not fit together.

    Examples
    --------
    >>> import anndata, numpy as np, stabdask as sd
    >>> field = sd.HopfieldField.from_arrays(
    ...     ["A", "B"], W=[[5.0, -4.0], [-4.0, 5.0]], gamma=3.0, bias=4.0, threshold=1.0, exponent=4.0)
    >>> adata = anndata.AnnData(np.array([[1.625, 1.625], [2.979, 0.017]]))
    >>> adata.var_names = ["A", "B"]
    >>> ds = sd.stability(sd.open_cells(adata), field)
    >>> ds["spectral_abscissa"].values.round(2)
    array([-0.57, -2.92])
    """
    import dask.array as da
    import xarray as xr
    from dask.delayed import delayed

    job = prepare(cells, field, missing_cluster=missing_cluster, **options)
    spec = job.spec
    # Chunks of the input are not joined: whoever looks at one cell waits for no other chunk than its own.
    rows = min(spec.block_cells, max(job.expression.chunks[0]))
    expression = job.expression.rechunk({0: rows, 1: -1})
    names = job.cell_names
    model = delayed(field, name=f"field-{field.fingerprint}", pure=True)
    stops = np.cumsum(expression.chunks[0])
    blocks = expression.to_delayed()[:, 0]
    parts: dict[str, list[Any]] = {name: [] for name in spec.options.variables()}
    for stop, n_cells, block in zip(stops, expression.chunks[0], blocks, strict=True):
        cut = slice(int(stop) - n_cells, int(stop))
        result = delayed(_block_task)(
            block,
            job.model_codes[cut],
            job.label_codes[cut],
            len(spec.labels),
            model,
            spec.options,
            job.columns,
            names[cut],
        )
        for name, shape in output_shapes(spec.options, field, n_cells, n_labels=len(spec.labels)).items():
            dtype = VARIABLES[name].dtype(spec.options.dtype)
            parts[name].append(da.from_delayed(result[name], shape=shape, dtype=dtype))
    data = {
        name: (VARIABLES[name].dims, da.concatenate(arrays, axis=0), dict(VARIABLES[name].attrs))
        for name, arrays in parts.items()
    }
    data["cluster_code"] = (("cell",), job.label_codes, {"long_name": "cluster of the cell"})
    for name, values_of in parameter_values(field, spec.options).items():
        dims, attrs = parameter_dims(name)
        data[name] = (dims, values_of(spec.models), attrs)
    coords: dict[str, Any] = {"cell": names.astype(object)}
    for name, (dim, values) in result_names(job.field, job.spec).items():
        coords[name] = (dim, np.asarray(values, dtype=object))
    coords["cluster"] = (*coords["cluster"], cluster_colors(job.cells, spec.labels))
    results = label_results(
        xr.Dataset(
            data,
            coords=coords,
            attrs={"fingerprint": spec.fingerprint, "run": spec.to_dict(), "complete": True},
        )
    )
    return attach_annotations(results, job.annotations)


def _block_task(
    block: npt.NDArray[Any],
    codes: npt.NDArray[np.int32],
    labels: npt.NDArray[np.int32],
    n_labels: int,
    field: Field,
    options: Options,
    columns: npt.NDArray[np.intp] | None,
    names: npt.NDArray[Any],
) -> dict[str, npt.NDArray[Any]]:
    out = empty_arrays(options, field, len(block), n_labels=n_labels)
    return compute_block(block, codes, field, options, labels=labels, columns=columns, cells=names, out=out)
