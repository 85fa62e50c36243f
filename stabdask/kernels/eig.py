"""One function over all eigensolver backends."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from stabdask.errors import BackendUnavailableError, UsageError
from stabdask.kernels import lanes, lapack
from stabdask.kernels.calibration import crossover
from stabdask.kernels.results import (
    EigResult,
    Results,
    Vectors,
    canonical_order,
    canonical_phase,
    inaccuracy_limit,
)
from stabdask.kernels.threads import single_threaded_blas

__all__ = [
    "BACKENDS",  # noqa: F822 - given by __getattr__
    "EigResult",
    "Vectors",
    "backend_parts",
    "backends",
    "canonical_order",
    "canonical_phase",
    "eig",
    "inaccuracy_limit",
    "kernel_name",
    "resolve_backend",
]

_NAMES = ("lanes", "lapack", "cuda")


@cache
def backends() -> tuple[str, ...]:
    """Return the backends that work here. Looking for a GPU imports CuPy, where it is installed."""
    return tuple(name for name in _NAMES if _why_not(name) is None)


def __getattr__(name: str) -> tuple[str, ...]:
    if name == "BACKENDS":
        return backends()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _why_not(name: str) -> str | None:
    """Return why a backend cannot be used here, or None if it can; what is not asked for is not loaded."""
    if name == "lapack":
        return None
    if name == "lanes":
        return lanes.why_not()
    if name == "cuda":
        from stabdask.kernels import cuda

        return cuda.why_not()
    return "not a backend"


def resolve_backend(
    backend: str, largest: int, *, dtype: npt.DTypeLike = np.float64, vectors: Vectors = "none"
) -> str:
    """Return the backend that `backend` means on this machine for matrices of order up to `largest`.

    ``"auto"`` is for matrices on the host, which stay on the CPU: a GPU is shared, so a run on it is asked for. It
    becomes ``"lanes"``, ``"lapack"``, or
    ``"lanes:300"`` where this machine's LAPACK is faster above order 300 (measured once and remembered; see
    `stabdask.kernels.calibration`). Any of these may also be asked for by name.

    Raises
    ------
    BackendUnavailableError
        If it is not installed here.
    """
    if backend == "auto":
        if not lanes.available():
            return "lapack"
        limit = crossover(largest, dtype=np.dtype(dtype), vectors=vectors)
        if limit is None:
            return "lanes"
        return f"lanes:{limit}" if limit else "lapack"
    problem = _why_not(backend_parts(backend)[0])
    if problem is not None:
        reason = "" if problem == "not a backend" else f" ({problem})"
        raise BackendUnavailableError(
            f"backend {backend!r} is not available here{reason}; expected 'auto' or one of {', '.join(backends())}"
        )
    return backend


def backend_parts(backend: str) -> tuple[str, int | None]:
    """Return the name of a backend, and the order above which LAPACK takes over, if there is one.

    Examples
    --------
    >>> backend_parts("lanes:300")
    ('lanes', 300)
    >>> backend_parts("lapack")
    ('lapack', None)
    """
    match = re.fullmatch(r"(\w+):(\d+)", backend) if isinstance(backend, str) else None
    return (match[1], int(match[2])) if match else (backend, None)


def kernel_name(backend: str) -> str:
    """Return what decides the last bits of results of `backend` in this process: its instruction set or GPU.

    With LAPACK, activations and speeds are those of the compiled variant all the same, where there is one:
    ``"lapack, avx512"``.
    """
    name, _ = backend_parts(backend)
    if name == "cuda":
        from stabdask.kernels.cuda_modules import current_gpu

        gpu = current_gpu()
        return f"{gpu.name} ({gpu.arch})"
    if name == "lanes":
        return lanes.instruction_set()
    return f"{name}, {lanes.instruction_set()}" if lanes.available() else name


def eig(
    cores: npt.NDArray[Any],
    *,
    sizes: npt.NDArray[np.integer[Any]] | None = None,
    modes: int | None = None,
    vectors: Vectors = "none",
    dtype: npt.DTypeLike | None = None,
    backend: str = "auto",
) -> EigResult:
    """Solve a batch of real non-symmetric eigenproblems.

    Parameters
    ----------
    cores
        ``(batch, k, k)`` real matrices. Those of CuPy are solved on their GPU, where the results stay.
    sizes
        ``(batch,)``: the matrix of entry ``b`` is ``cores[b, :sizes[b], :sizes[b]]``; the rest of it is not
        looked at. All are ``k`` if not given.
    modes
        Number of leading modes whose vectors are returned (all if not given); eigenvalues are always all
        returned.
    vectors
        ``"none"``, ``"right"`` or ``"both"``.
    dtype
        ``float32`` or ``float64`` arithmetic; that of `cores` if not given.
    backend
        ``"auto"`` or one of `BACKENDS`; see `resolve_backend`.

    Returns
    -------
    EigResult
        A matrix holding NaN or infinity, or one the solver gives up on, has a status and NaN results; its
        neighbours in the batch are not affected.

    Raises
    ------
    UsageError
        If shapes or options make no sense.
    BackendUnavailableError
        If the backend is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> result = eig(np.array([[[0.0, 1.0], [-1.0, 0.0]]]))
    >>> result.eigenvalues
    array([[0.+1.j, 0.-1.j]])
    >>> int(result.status[0])
    0
    """
    if hasattr(cores, "__cuda_array_interface__"):
        return _on_device(cores, sizes, modes, vectors, dtype, backend)
    cores = np.asarray(cores)
    if cores.dtype.kind not in "fiub":
        raise UsageError(f"cores have dtype {cores.dtype}; expected real numbers")
    if cores.ndim != 3 or cores.shape[1] != cores.shape[2]:
        raise UsageError(f"cores have shape {cores.shape}; expected (batch, k, k)")
    if vectors not in ("none", "right", "both"):
        raise UsageError(f"vectors={vectors!r}; expected 'none', 'right' or 'both'")
    precision = _precision(cores.dtype if dtype is None else dtype)
    if cores.dtype not in (np.dtype(np.float32), np.dtype(np.float64)) or not cores.dtype.isnative:
        cores = cores.astype(np.float64)
    batch, k, _ = cores.shape
    counts = np.full(batch, k) if sizes is None else np.asarray(sizes)
    integers = counts.dtype.kind in "iu" or not batch
    if not integers or counts.shape != (batch,) or (batch and (counts.min() < 0 or counts.max() > k)):
        raise UsageError(f"sizes must be {batch} integers from 0 to {k}")
    if modes is not None and (not isinstance(modes, int | np.integer) or modes < 0):
        raise UsageError(f"modes={modes!r}; expected an integer >= 0, or None for all")
    wanted = k if modes is None else min(int(modes), k)
    largest = int(counts.max(initial=0))
    chosen = resolve_backend(backend, largest, dtype=precision, vectors=vectors)
    out = Results(batch, k, wanted, vectors, precision)
    _solve(cores, counts.astype(np.int64), out, chosen)
    return out.finish(counts, chosen)


def _on_device(
    cores: Any, sizes: Any, modes: int | None, vectors: Vectors, dtype: npt.DTypeLike | None, backend: str
) -> EigResult:
    """Solve matrices where they are: on a GPU."""
    if backend not in ("auto", "cuda"):
        raise UsageError(
            f"backend={backend!r} and matrices on a GPU; expected 'auto' or 'cuda', or matrices brought to the host"
        )
    from stabdask.kernels import cuda

    return cuda.solve_on_device(cores, sizes, modes=modes, vectors=vectors, dtype=dtype)


def _precision(dtype: npt.DTypeLike) -> np.dtype[Any]:
    try:
        precision = np.dtype(dtype).newbyteorder("=")
    except TypeError:
        raise UsageError(f"dtype {dtype!r}; expected float32 or float64") from None
    if precision not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise UsageError(f"dtype {precision}; expected float32 or float64")
    return precision


def _solve(cores: npt.NDArray[Any], sizes: npt.NDArray[np.int64], out: Results, backend: str) -> None:
    """Fill `out` with the backend chosen, the matrices above its crossover with LAPACK."""
    name, limit = backend_parts(backend)
    if name == "lapack":
        with single_threaded_blas():
            lapack.solve(cores, sizes, out)
        return
    if name == "cuda":
        from stabdask.kernels import cuda

        cuda.solve(cores, sizes, out)
        return
    large = sizes > limit if limit is not None else np.zeros(len(sizes), dtype=bool)
    if not large.any():
        lanes.solve(cores, sizes, out)
        return
    for members, solver in ((~large, "lanes"), (large, "lapack")):
        rows = np.flatnonzero(members)
        width = int(sizes[rows].max(initial=0))
        part = Results(len(rows), width, min(out.modes, width), out.vectors, out.precision)
        _solve(cores[rows, :width, :width], sizes[rows], part, solver)
        out.put(rows, part)
