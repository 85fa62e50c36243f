"""Co-moments as Zarr groups."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from stabdask.analysis.network.moments import CoMoments
from stabdask.analysis.network.saved import SavedKind
from stabdask.errors import DamagedStoreError
from stabdask.files import read_names, write_array, write_names

__all__ = ["open_moments", "save_moments"]

_MOMENTS = SavedKind("stabdask_moments", "co-moments", "co-moments", "CoMoments.save", plural=True)
_CHUNK_BYTES = 2**24


def save_moments(moments: CoMoments, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write co-moments to a new Zarr group at `path`, which appears whole or not at all.

    Raises
    ------
    StoreMismatchError
        If `path` exists and `overwrite` is false.
    """
    path = Path(path)
    with _MOMENTS.new_group(path, overwrite=overwrite) as group:
        group.attrs.update(
            {
                "count": moments.count,
                "n_skipped": moments.n_skipped,
                "fingerprint": _fingerprint(moments),
            }
        )
        write_names(group, "gene", moments.genes.tolist(), "gene")
        write_array(group, "mean", moments.mean, ("gene",))
        rows = max(1, _CHUNK_BYTES // (8 * max(1, len(moments.genes))))
        write_array(group, "comoment", moments.comoment, ("gene", "gene_2"), rows=rows)
        if moments.third is not None:
            write_array(group, "third", moments.third, ("gene",))
            write_array(group, "fourth", np.asarray([moments.fourth]), ("one",))
    return path


def open_moments(path: str | Path) -> CoMoments:
    """Open co-moments written by `save_moments`.

    Raises
    ------
    MissingFileError
        If there are none at `path`.
    InputError
        If a later version of stabdask wrote them.
    DamagedStoreError
        If what is there differs from what was written.
    """
    group = _MOMENTS.open(path)
    with _MOMENTS.reading(path):
        has_fourth = "fourth" in group
        moments = CoMoments(
            group.attrs["count"],
            group["mean"][...],
            group["comoment"][...],
            read_names(group, "gene"),
            third=group["third"][...] if has_fourth else None,
            fourth=float(group["fourth"][0]) if has_fourth else None,
            n_skipped=group.attrs["n_skipped"],
        )
        intact = _fingerprint(moments) == group.attrs["fingerprint"]
    if not intact:
        raise DamagedStoreError(
            f"the co-moments at {path} differ from their own fingerprint; write them again"
        )
    return moments


def _fingerprint(moments: CoMoments) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{moments.count} {moments.n_skipped} {len(moments.genes)} {moments.fourth!r}".encode())
    digest.update("\n".join(moments.genes.tolist()).encode())
    for values in (moments.mean, moments.comoment, moments.third):
        if values is not None:
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
