"""The GPU backend: one matrix for a warp or a block, the same solver as on the CPU (``lanes/team_solver.hpp``).

`solve` and `solve_scaled` take and give arrays of NumPy as those of `stabdask.kernels.lanes` do, in batches that fit
the free memory; `solve_on_device` and `solve_scaled_on_device` take and give arrays of CuPy. A result depends on its
own matrix alone: not on its batch, on other streams, or on how much memory there was.

CuPy is imported on first use.
"""

from __future__ import annotations

import functools
import importlib
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import GpuError, MemoryBudgetError, StabdaskWarning, UsageError
from stabdask.kernels.arrays import to_host
from stabdask.kernels.cuda_engine import Batch, Source, free_bytes
from stabdask.kernels.cuda_modules import current_gpu, guarded
from stabdask.kernels.cuda_results import DeviceResults, judge
from stabdask.kernels.device import Gpu, survey_gpus
from stabdask.kernels.results import EigResult, Results, Vectors
from stabdask.schema import Status

__all__ = [
    "available",
    "halvings",
    "in_batches",
    "numbers_to_host",
    "refuse_gaps",
    "solve",
    "solve_on_device",
    "solve_scaled",
    "solve_scaled_on_device",
    "upload",
    "why_not",
]

_BATCH_SHARE = 0.5
"""The share of the free memory that the matrices of a batch and their results may take."""

_halvings = 0
_lock = threading.Lock()
_streams = threading.local()


@functools.cache
def available() -> bool:
    """Return whether there are a GPU and a CuPy that works with it."""
    return why_not() is None


@functools.cache
def why_not() -> str | None:
    """Return why the backend cannot be used here, or None if it can."""
    return survey_gpus().why_not


def halvings() -> int:
    """Return how often this process has halved a batch because a GPU's memory was full."""
    return _halvings


def solve(cores: npt.NDArray[Any], sizes: npt.NDArray[np.int64], out: Results) -> int:
    """Fill `out` for ``cores[b, :sizes[b], :sizes[b]]``; the interpreter lock is released meanwhile.

    Parameters
    ----------
    cores
        ``(batch, k, k)`` float32 or float64.
    sizes
        ``(batch,)``.
    out
        Its precision is that of the arithmetic.

    Returns
    -------
    int
        How often a batch was halved because memory was full; a warning says so too.

    Raises
    ------
    GpuError
        If the GPU fails; `out` is then of no use.
    MemoryBudgetError
        If not even one matrix fits.
    """
    batch, k, _ = cores.shape

    def upload(cupy: Any, rows: slice) -> Source:
        orders = sizes[rows].astype(np.int64)
        return Source(cupy.asarray(np.ascontiguousarray(cores[rows])), orders, cupy.asarray(orders))

    return _in_batches(batch, k * k * cores.itemsize, upload, out)


def solve_scaled(
    weights: npt.NDArray[np.float64],
    shifts: npt.NDArray[np.float64],
    scales: npt.NDArray[np.float64],
    out: Results,
) -> int:
    """Fill `out` for the matrices ``W[R, R] diag(s_R) - diag(g_R)``, R where s is not zero, which are never formed.

    Parameters
    ----------
    weights
        ``(r, r)`` W.
    shifts
        ``(r,)`` g.
    scales
        ``(batch, r)`` s, a row for each matrix.
    out
        As wide as the largest matrix, at least.

    Returns
    -------
    int
        As `solve`; it raises what that does.
    """
    sizes = np.count_nonzero(scales, axis=1).astype(np.int64)

    def upload(cupy: Any, rows: slice) -> Source:
        parts = (np.ascontiguousarray(part, dtype=np.float64) for part in (weights, shifts, scales[rows]))
        W, g, s = (cupy.asarray(part) for part in parts)
        return Source(W, sizes[rows], cupy.asarray(sizes[rows]), g, s)

    return _in_batches(len(scales), 8 * len(weights), upload, out)


def solve_on_device(
    cores: Any,
    sizes: Any = None,
    *,
    modes: int | None = None,
    vectors: Vectors = "none",
    dtype: npt.DTypeLike | None = None,
    stream: Any = None,
) -> EigResult:
    """Solve matrices that are on the GPU; results stay there.

    Parameters
    ----------
    cores
        ``(batch, k, k)`` array of CuPy, float32 or float64.
    sizes
        ``(batch,)`` orders, of NumPy or CuPy; all are k if not given. They are needed on the host: those of
        CuPy are waited for.
    modes
        Number of leading modes whose vectors are returned; all if not given.
    vectors
        ``"none"``, ``"right"`` or ``"both"``. With vectors the call waits for the GPU, else it may return
        before the work is done.
    dtype
        Of the arithmetic; that of `cores` if not given.
    stream
        CuPy's stream to work on; the current one if not given.

    Returns
    -------
    EigResult
        Its arrays are on the GPU.

    Raises
    ------
    UsageError
        If shapes or dtypes make no sense.
    GpuError, MemoryBudgetError
        As `solve`. An error of work still under way shows at the next synchronization.
    """
    cupy = importlib.import_module("cupy")
    precision = _precision(cores.dtype if dtype is None else dtype)
    if cores.ndim != 3 or cores.shape[1] != cores.shape[2]:
        raise UsageError(f"cores have shape {cores.shape}; expected (batch, k, k)")
    _precision(cores.dtype)
    batch, k, _ = cores.shape
    with stream or nullcontext(), _on_device(batch, k) as gpu:
        orders = np.full(batch, k) if sizes is None else to_host(sizes)
        if orders.shape != (batch,) or (batch and (orders.min() < 0 or orders.max() > k)):
            raise UsageError(f"sizes must be {batch} integers from 0 to {k}")
        orders = orders.astype(np.int64)
        source = Source(cupy.ascontiguousarray(cores), orders, cupy.asarray(orders))
        return _result_on_device(cupy, gpu, source, k, modes, vectors, precision)


def solve_scaled_on_device(
    weights: Any,
    gamma: Any,
    slope: Any,
    *,
    modes: int | None = None,
    vectors: Vectors = "none",
    dtype: npt.DTypeLike = np.float64,
    stream: Any = None,
) -> EigResult:
    """Solve the cores ``W[R, R] diag(phi'_R) - diag(gamma_R)`` of cells, R their active regulators, on the GPU.

    The kernels read what they need of W, gamma and phi' and never form the cores.

    Parameters
    ----------
    weights
        ``(r, r)`` array of CuPy, float64: W between regulators.
    gamma
        ``(r,)`` degradation rates.
    slope
        ``(cell, r)`` phi'; zero where a regulator is not active.
    modes, vectors, dtype, stream
        As in `solve_on_device`. Vectors have a component for each active regulator, in ascending order.

    Returns
    -------
    EigResult
        Its arrays are on the GPU, as wide as the largest core.
    """
    cupy = importlib.import_module("cupy")
    r = len(weights)
    if weights.shape != (r, r) or gamma.shape != (r,) or slope.ndim != 2 or slope.shape[1] != r:
        raise UsageError(
            f"weights have shape {weights.shape}, gamma {gamma.shape}, slope {slope.shape}; "
            "expected (r, r), (r,) and (cell, r)"
        )
    with stream or nullcontext(), _on_device(len(slope), r) as gpu:
        W, g, s = (cupy.ascontiguousarray(array, dtype=np.float64) for array in (weights, gamma, slope))
        sizes = to_host(cupy.count_nonzero(s, axis=1)).astype(np.int64)
        source = Source(W, sizes, cupy.asarray(sizes), g, s)
        width = int(sizes.max(initial=0))
        return _result_on_device(cupy, gpu, source, width, modes, vectors, _precision(dtype))


# --- on the device ---------------------------------------------------------------------------------------


@contextmanager
def _on_device(n_matrices: int, k: int) -> Iterator[Gpu]:
    """Give the current GPU; put its errors and its want of memory into words."""
    gpu = current_gpu()
    try:
        with guarded(f"{n_matrices:,} matrices of order up to {k}", gpu):
            yield gpu
    except MemoryError as error:
        raise _out_of_memory(gpu, n_matrices, f"matrices of order up to {k}", error) from error


def _result_on_device(
    cupy: Any,
    gpu: Gpu,
    source: Source,
    width: int,
    modes: int | None,
    vectors: Vectors,
    precision: np.dtype[Any],
) -> EigResult:
    if vectors not in ("none", "right", "both"):
        raise UsageError(f"vectors={vectors!r}; expected 'none', 'right' or 'both'")
    wanted = 0 if vectors == "none" else width if modes is None else min(int(modes), width)
    out = DeviceResults.blank(cupy, len(source.sizes), width, wanted, vectors, precision)
    Batch(cupy, gpu, source, out, precision).run()
    return judge(cupy, out, source.orders, precision)


# --- from the host and back --------------------------------------------------------------------------------


def in_batches(
    n_items: int, item_bytes: int, work: Callable[[slice], None], *, what: str, at_once: int | None = None
) -> int:
    """Call `work` for as many items at a time as fit the free memory of the current GPU, fewer where they do not.

    Parameters
    ----------
    n_items
        Their number.
    item_bytes
        Memory that one takes.
    work
        Does the items of a slice, on this thread's stream; done again for a part of them where memory was full.
    what
        The items in words, plural, for messages.
    at_once
        How many go together, for work whose last bits depend on it; to fit less memory is then halving them, too.

    Returns
    -------
    int
        How often a batch was halved because memory was full; a warning says so too.

    Raises
    ------
    GpuError
        If the GPU fails.
    MemoryBudgetError
        If not even one item fits.
    """
    if not n_items:
        return 0
    cupy = importlib.import_module("cupy")
    gpu = current_gpu()
    with _stream(cupy, gpu) as stream:
        with guarded("asking for free memory", gpu):
            fitting = max(1, int(_BATCH_SHARE * free_bytes(cupy)) // item_bytes)
        step, done, n_halved = min(n_items, fitting if at_once is None else at_once), 0, 0
        while step > fitting:
            step, n_halved = (step + 1) // 2, n_halved + 1
        while done < n_items:
            part = slice(done, min(done + step, n_items))
            try:
                with guarded(f"a batch of {part.stop - part.start:,} {what}", gpu):
                    work(part)
                    stream.synchronize()
                done = part.stop
            except MemoryError as error:
                cupy.get_default_memory_pool().free_all_blocks()
                if part.stop - part.start == 1:
                    raise _out_of_memory(gpu, 1, what, error) from error
                step, n_halved = (part.stop - part.start + 1) // 2, n_halved + 1
    if n_halved:
        _note_halvings(gpu, n_halved, step, what)
    return n_halved


def upload(array: npt.NDArray[Any]) -> Any:
    """Return an array of CuPy with the entries of `array`, on the current GPU."""
    return importlib.import_module("cupy").asarray(array)


def _in_batches(
    n_matrices: int, matrix_bytes: int, make: Callable[[Any, slice], Source], out: Results
) -> int:
    """Solve on the device as many matrices at a time as fit; returns how often that was too many."""
    if not n_matrices:
        return 0
    cupy, gpu = importlib.import_module("cupy"), current_gpu()
    what = f"matrices of order up to {out.eigenvalues.shape[1]}"

    def solve_rows(rows: slice) -> None:
        _solve_rows(cupy, gpu, make, out, rows)

    return in_batches(n_matrices, matrix_bytes + _result_bytes(out), solve_rows, what=what)


def _solve_rows(cupy: Any, gpu: Gpu, make: Callable[[Any, slice], Source], out: Results, rows: slice) -> None:
    with guarded("copying matrices to it", gpu):
        source = make(cupy, rows)
        made = DeviceResults.blank(
            cupy, rows.stop - rows.start, out.eigenvalues.shape[1], out.modes, out.vectors, out.precision
        )
    Batch(cupy, gpu, source, made, out.precision).run()
    with guarded("the kernels of a batch, or copying their results", gpu):
        _stream(cupy, gpu).synchronize()
        made.copy_to(out, rows)
    refuse_gaps(out.outcome[rows])


def numbers_to_host(found: EigResult) -> EigResult:
    """Bring the numbers of each matrix to the host; eigenvalues and vectors stay.

    Raises
    ------
    GpuError
        If matrices were left out.
    """
    status = to_host(found.status)
    refuse_gaps(status)
    return replace(
        found,
        condition=None if found.condition is None else to_host(found.condition),
        residual=to_host(found.residual),
        trace_defect=to_host(found.trace_defect),
        status=status,
    )


def refuse_gaps(outcome: npt.NDArray[np.uint8]) -> None:
    """Raise `GpuError` if the statuses of a batch tell that the current GPU left matrices out."""
    missed = int((outcome == Status.NOT_COMPUTED).sum())
    if missed:
        gpu = current_gpu()
        raise GpuError(
            f"{gpu.name} (number {gpu.index}) left out {missed:,} of {len(outcome):,} matrices without reporting an "
            "error; nothing of this batch is kept. Start the run again, which resumes, and report this"
        )


def _result_bytes(out: Results) -> int:
    """Bytes of the results of one matrix, and of what else is kept for it."""
    arrays = (out.eigenvalues, out.right, out.left, out.overlap)
    return 64 + sum(array.nbytes // len(array) for array in arrays if array is not None)


def _stream(cupy: Any, gpu: Gpu) -> Any:
    """Return this thread's own stream on a GPU, so that threads do not wait for each other's kernels."""
    streams = vars(_streams).setdefault("by_gpu", {})
    if gpu.index not in streams:
        with guarded("making a stream", gpu):
            streams[gpu.index] = cupy.cuda.Stream(non_blocking=True)
    return streams[gpu.index]


def _note_halvings(gpu: Gpu, n_halved: int, step: int, what: str) -> None:
    global _halvings
    with _lock:
        _halvings += n_halved
    warnings.warn(
        f"the memory of {gpu.name} (number {gpu.index}) was full: the batch was halved {n_halved} time(s), to {step:,} "
        f"{what}. Results are not affected; is something else using the GPU?",
        StabdaskWarning,
        stacklevel=5,
    )


def _out_of_memory(gpu: Gpu, count: int, what: str, error: BaseException) -> MemoryBudgetError:
    return MemoryBudgetError(
        f"{count:,} {what} and their results do not fit in what is free of the "
        f"{gpu.memory_bytes / 1e9:.3g} GB of {gpu.name} (number {gpu.index}): {error}; expected room for one at least. "
        "Use fewer at a time, fewer modes, dtype='float32', or a GPU that nothing else uses"
    )


def _precision(dtype: npt.DTypeLike) -> np.dtype[Any]:
    precision = np.dtype(dtype)
    if precision not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise UsageError(f"dtype {precision}; expected float32 or float64")
    return precision
