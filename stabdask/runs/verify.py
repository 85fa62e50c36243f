"""`verify`: a store against its own checksums, and a sample of its cells against the dense oracle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stabdask.analysis.spectra import complete_values, match_spectra
from stabdask.atlas.cells import cell_names, cell_state
from stabdask.errors import InputError, MissingKeyError, StabdaskError
from stabdask.fields.base import Field, Index
from stabdask.files import open_group
from stabdask.rich import Rich
from stabdask.runs.annotations import damaged_annotations
from stabdask.runs.integrity import damaged_metadata, damaged_variables
from stabdask.runs.job import RunSpec, cells_identity
from stabdask.runs.options import Options
from stabdask.runs.parameters import parameter_values
from stabdask.runs.receipts import read_receipts
from stabdask.runs.store import open_store_field, read_spec
from stabdask.runs.verify_response import response_error, wrong_sums
from stabdask.schema import Status

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["VerifyReport", "reopen_cells", "verify"]

_LIMITS = {"float64": 1e-10, "float32": 1e-4}


@dataclass(frozen=True)
class VerifyReport(Rich):
    """What a verification found.

    Attributes
    ----------
    store
        Its path.
    n_partitions, n_partitions_checked
        In all, and with a receipt whose checksums were recomputed.
    damaged
        (partition, variable) whose values do not match their checksum or cannot be read.
    n_cells_checked
        Cells compared with the dense oracle.
    worst_eigenvalue_error, worst_element_error
        Largest differences found, relative to the norm of J.
    limit
        Above which a cell counts as wrong.
    wrong_cells
        Names of such cells.
    note
        Why the oracle was not used, if it was not.
    damaged_annotations
        Labels, numbers and embeddings brought along that are not those of the run.
    compared
        What was compared beside elements: ``"eigenvalues"``, or what the store has in their place.
    n_elements
        Elements of each cell that were compared.
    damaged_parameters
        Of the copy of the ``field``, ``degradation`` and ``weight``, what is not that of the run; and arrays whose
        description, names or labels of cells that are not.
    n_responses
        Cells whose responses were compared with the dense inverse of their Jacobian: those with `response_status` 0.
    worst_response_error
        Largest difference found in them, relative to the norm of their column of J^-1, and beyond what their condition
        number explains: comparable with `limit`.
    wrong_sums
        Partitions of these cells whose sums of responses are not those of the responses stored.
    """

    store: str
    n_partitions: int
    n_partitions_checked: int
    damaged: list[tuple[int, str]]
    n_cells_checked: int
    worst_eigenvalue_error: float
    worst_element_error: float
    limit: float
    wrong_cells: list[str] = field(default_factory=list)
    note: str = ""
    damaged_annotations: list[str] = field(default_factory=list)
    damaged_parameters: list[str] = field(default_factory=list)
    compared: str = "eigenvalues"
    n_elements: int = 0
    n_responses: int = 0
    worst_response_error: float = 0.0
    wrong_sums: list[int] = field(default_factory=list)

    _title = "Verification"

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong (missing partitions are not wrong)."""
        found = (self.damaged, self.damaged_annotations, self.damaged_parameters, self.wrong_cells)
        return not (any(found) or self.wrong_sums)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**values, "damaged": [list(item) for item in self.damaged], "ok": self.ok}

    def __str__(self) -> str:
        lines = [
            f"store        {self.store}: {'ok' if self.ok else 'NOT OK'}",
            f"checksums    {self.n_partitions_checked:,} of {self.n_partitions:,} partitions checked, "
            f"{len(self.damaged)} damaged arrays",
        ]
        lines += [f"             partition {number}: {name}" for number, name in self.damaged[:10]]
        if self.damaged_annotations:
            lines.append(f"             annotations: {', '.join(self.damaged_annotations[:10])}")
        if self.damaged_parameters:
            lines.append(f"             parameters: {', '.join(self.damaged_parameters)}")
        if self.damaged or self.damaged_annotations or self.damaged_parameters:
            lines.append("             the run's own command with --repair (repair=True) makes these again")
        if self.note:
            lines.append(f"oracle       not used: {self.note}")
        else:
            found = [("elements", self.worst_element_error)] if self.n_elements else []
            if self.compared != "nothing":
                found.insert(0, (self.compared, self.worst_eigenvalue_error))
            within = ", ".join(f"{name} within {error:.1e}" for name, error in found)
            within = (
                f"{within} of |J| (limit {self.limit:.0e})" if found else "no spectra, no elements stored"
            )
            lines.append(f"oracle       {self.n_cells_checked} cells against dense Jacobians: {within}")
            if self.n_responses:
                lines.append(
                    f"             responses of {self.n_responses} of them against dense inverses: within "
                    f"{self.worst_response_error:.1e}, beyond what their condition explains (limit {self.limit:.0e})"
                )
        if self.wrong_cells:
            lines.append(f"             wrong: {', '.join(self.wrong_cells[:10])}")
        if self.wrong_sums:
            numbers = ", ".join(str(number) for number in self.wrong_sums[:10])
            lines.append(f"             sums of responses are not those of the cells in partitions {numbers}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Errors:
    """Of one cell: those of eigenvalues and elements, relative to |J|, and of responses, if it has any."""

    eigenvalue: float
    element: float
    response: float | None

    def within(self, limit: float) -> bool:
        return all(error <= limit for error in (self.eigenvalue, self.element, self.response or 0.0))


def _largest(errors: Iterable[float]) -> float:
    """Return the largest of some errors, 0 of none; NaN, for what is not there, is larger than all."""
    return float(np.max([0.0, *errors]))


def verify(
    path: str | Path, *, cells: xr.Dataset | None = None, n_cells: int = 8, seed: int = 0
) -> VerifyReport:
    """Check a store: every checksum, and a random sample of cells against the dense oracle.

    Of each cell of the sample, its spectrum (or what the store has in its place), elements and responses are compared.
    Sums of responses by cluster are compared with the responses that they are of, where the store has both; else how
    many cells are in them.

    Parameters
    ----------
    path
        The store.
    cells
        The atlas the run read; opened again from the paths in the store if not given.
    n_cells
        How many cells to compare with `numpy.linalg.eigvals` of their dense Jacobian, and where the store has
        responses, with `numpy.linalg.inv` of it. One of 2,000 genes takes some ten seconds.
    seed
        Of the sample.

    Returns
    -------
    VerifyReport

    Raises
    ------
    MissingFileError, StoreMismatchError, DamagedStoreError
        If the store cannot be read as one.
    InputError
        If `cells` are not those of the run.
    """
    spec = read_spec(path)
    receipts = read_receipts(path, spec.fingerprint)
    group = open_group(path)
    damaged = [
        (number, name)
        for number, receipt in sorted(receipts.items())
        for name in damaged_variables(path, group, spec, receipt)
    ]
    note = ""
    limit = _LIMITS[spec.options.dtype]
    errors: dict[int, _Errors] = {}
    names: npt.NDArray[Any] = np.empty(0)
    if n_cells > 0:
        try:
            atlas = cells if cells is not None else reopen_cells(path)
            names = cell_names(atlas)
            errors = _against_oracle(path, spec, group, atlas, set(receipts), damaged, n_cells, seed)
        except (StabdaskError, OSError) as error:
            if cells is not None:
                raise
            note = str(error)
    else:
        note = "no cells asked for"
    responses = [error.response for error in errors.values() if error.response is not None]
    return VerifyReport(
        store=str(path),
        n_partitions=spec.n_partitions,
        n_partitions_checked=len(receipts),
        damaged=damaged,
        n_cells_checked=len(errors),
        worst_eigenvalue_error=_largest(error.eigenvalue for error in errors.values()),
        worst_element_error=_largest(error.element for error in errors.values()),
        limit=limit,
        wrong_cells=[str(names[cell]) for cell, error in errors.items() if not error.within(limit)],
        note=note,
        damaged_annotations=damaged_annotations(group, spec.cells.get("annotations", {})),
        damaged_parameters=_damaged_parameters(path, spec, group),
        compared=_compared(spec),
        n_elements=_n_elements(spec.options),
        n_responses=len(responses),
        worst_response_error=_largest(responses),
        wrong_sums=wrong_sums(spec, group, sorted({cell // spec.partition_cells for cell in errors}), limit),
    )


def _n_elements(options: Options) -> int:
    block = len(options.effectors) * len(options.regulators) if "jacobian" in options.variables() else 0
    return len(options.elements) + block


def _compared(spec: RunSpec) -> str:
    if spec.options.spectrum == "full":
        return "eigenvalues"
    scalars = [name for name in ("spectral_abscissa", "trace") if name in spec.options.variables()]
    return scalars[0].replace("_", " ") if scalars else "nothing"


def _damaged_parameters(path: str | Path, spec: RunSpec, group: Any) -> list[str]:
    """Return what in a store is read as parameters of the field and is not those of its run."""
    try:
        model = open_store_field(path)
    except ConnectionError:
        raise
    except Exception:  # as above
        return ["field"]
    if model.fingerprint != spec.field:
        return ["field"]
    damaged = damaged_metadata(group, spec, model)
    for name, values_of in parameter_values(model, spec.options).items():
        try:
            same = np.array_equal(group[name][...], values_of(spec.models), equal_nan=True)
        except ConnectionError:
            raise
        except Exception:  # as above
            same = False
        if not same:
            damaged.append(name)
    return damaged


def reopen_cells(path: str | Path, atlas: Sequence[str | Path] | None = None) -> xr.Dataset:
    """Open the atlas of a store again, with the layer, labels and genes of its run.

    Parameters
    ----------
    path
        The store.
    atlas
        Where the files are now; where the run read them if not given.

    Raises
    ------
    MissingKeyError
        If the run read cells from memory.
    """
    from stabdask.atlas.cells import open_cells

    sources = read_spec(path).cells["sources"]
    if not sources or not all(source.get("path") for source in sources):
        raise MissingKeyError("the run read cells from memory; pass them as cells=")
    folder, _, key = str(sources[0]["element"]).partition("/")
    return open_cells(
        [str(source["path"]) for source in sources] if atlas is None else [str(item) for item in atlas],
        layer=key if folder == "layers" else None,
        obsm=key if folder == "obsm" else None,
        cluster_key=sources[0]["cluster_key"] or None,
        genes=None if folder == "obsm" else open_store_field(path).axes.tolist(),
    )


def _against_oracle(
    path: str | Path,
    spec: RunSpec,
    group: Any,
    atlas: xr.Dataset,
    finished: set[int],
    damaged: list[tuple[int, str]],
    n_cells: int,
    seed: int,
) -> dict[int, _Errors]:
    """Return, per sampled cell, how far what is stored is from what its dense Jacobian gives."""
    model = open_store_field(path)
    _check_same(spec, atlas)
    usable = sorted(finished - {number for number, _ in damaged})
    candidates = np.concatenate([np.arange(*spec.bounds(number)) for number in usable] or [np.empty(0, int)])
    status = np.asarray(group["status"][...])
    codes = np.asarray(group["cluster_code"][...])
    solved = (Status.OK, Status.INACCURATE, Status.DEFECTIVE)
    candidates = candidates[np.isin(status[candidates], solved)]
    sample = np.sort(np.random.default_rng(seed).permutation(candidates)[:n_cells]).astype(np.intp)
    state = cell_state(atlas)
    where = {str(name): position for position, name in enumerate(atlas[state.dims[1]].to_numpy())}
    columns = np.asarray([where[str(name)] for name in model.axes])
    pairs = _compared_elements(spec, model)
    errors = {}
    for cell in sample:
        x = np.asarray(state.data[int(cell)].compute(scheduler="synchronous"), dtype=np.float64)
        label = spec.models[int(codes[cell])]
        assert label is not None
        point = x[None, columns]
        J = model.jacobian(point, label)[0]
        scale = float(np.linalg.norm(J)) or 1.0
        linear = model.linearize(point, model.cluster_number(label), dtype=spec.options.dtype)
        errors[int(cell)] = _Errors(
            _eigenvalue_error(spec, group, int(cell), J, codes, model.regulator_index) / scale,
            _element_error(spec, group, int(cell), model.jacobian_elements(point, label, *pairs)[0]) / scale,
            response_error(
                spec, group, int(cell), J, model, rounding=linear.rounding, limit=_LIMITS[spec.options.dtype]
            ),
        )
    return errors


def _check_same(spec: RunSpec, atlas: xr.Dataset) -> None:
    identity = cells_identity(atlas)
    for key, what in (("names", "cell names"), ("labels", "cluster labels")):
        if identity[key] != spec.cells[key]:
            raise InputError(f"the cells given are not those of the run: their {what} differ")


def _eigenvalue_error(
    spec: RunSpec,
    group: Any,
    cell: int,
    J: npt.NDArray[np.float64],
    codes: npt.NDArray[np.int32],
    regulator_index: npt.NDArray[np.intp],
) -> float:
    if spec.options.spectrum == "full":
        stored = group["eigenvalue"][cell]
        if not spec.options.whole_cores:
            stored = complete_values(
                stored[None],
                group["active"][cell : cell + 1],
                codes[cell : cell + 1],
                degradation=group["degradation"][...],
                regulator_index=regulator_index,
            )[0]
        return match_spectra(stored, np.linalg.eigvals(J)) if np.isfinite(stored.real).all() else float("inf")
    if "spectral_abscissa" in spec.options.variables():
        return float(abs(float(group["spectral_abscissa"][cell]) - np.linalg.eigvals(J).real.max()))
    return (
        float(abs(float(group["trace"][cell]) - np.trace(J))) if "trace" in spec.options.variables() else 0.0
    )


def _compared_elements(spec: RunSpec, model: Field) -> tuple[Index, Index]:
    """Return the pairs of genes whose elements are compared: those chosen, and those of a block that cells hold."""
    effectors, regulators = spec.options.element_index(model)
    if "jacobian" in spec.options.variables():
        rows, columns = np.meshgrid(*spec.options.block_index(model), indexing="ij")
        effectors = np.concatenate([effectors, rows.ravel()])
        regulators = np.concatenate([regulators, columns.ravel()])
    return effectors, regulators


def _element_error(spec: RunSpec, group: Any, cell: int, dense: npt.NDArray[np.float64]) -> float:
    names = [name for name in ("element", "jacobian") if name in spec.options.variables()]
    if not names:
        return 0.0
    stored = np.concatenate([np.asarray(group[name][cell], dtype=np.float64).ravel() for name in names])
    return float(np.abs(stored - dense).max(initial=0.0))
