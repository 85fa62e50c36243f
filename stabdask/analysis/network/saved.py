"""What is saved as one Zarr group: it appears whole or not at all, and says what it is and whether it is intact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stabdask.errors import DamagedStoreError, InputError, MissingFileError
from stabdask.files import Place, existing_place, new_directory, new_group, open_group

__all__ = ["SavedKind"]


@dataclass(frozen=True)
class SavedKind:
    """A kind of thing that is saved as a Zarr group of its own.

    Attributes
    ----------
    attribute, value
        The attribute of a group that tells of which kind it is, and its value for this one.
    name
        What it is, in words, and `plural` if these are of several.
    made_by
        What writes it.
    version
        Of the layout.
    """

    attribute: str
    value: str
    name: str
    made_by: str
    version: int = 1
    plural: bool = False

    @contextmanager
    def new_group(self, path: Place, *, overwrite: bool = False) -> Iterator[Any]:
        """Give an empty group that is at `path` once the block ends without error.

        Raises
        ------
        StoreMismatchError
            If `path` exists and `overwrite` is false.
        """
        with new_directory(path, overwrite=overwrite) as folder:
            group = new_group(folder)
            group.attrs.update({self.attribute: self.value, "format_version": self.version})
            yield group

    def open(self, path: str | Path) -> Any:
        """Return the group at `path`, which is of this kind and version.

        Raises
        ------
        MissingFileError
            If there is none.
        InputError
            If it is of another version.
        """
        group = open_group(existing_place(path, f"saved {self.name}"))
        found = group.attrs.get(self.attribute)
        if found != self.value:
            there = "" if found is None else f", but {found!r}"
            raise MissingFileError(
                f"{path} holds no saved {self.name}{there}; write {self._it} with {self.made_by}"
            )
        version = group.attrs.get("format_version")
        if version != self.version:
            raise InputError(
                f"{path} holds {'' if self.plural else 'a '}{self.name} of format {version!r}; this version reads "
                f"format {self.version}: make {self._it} anew, or update stabdask"
            )
        return group

    @contextmanager
    def reading(self, path: str | Path) -> Iterator[None]:
        """Say what goes wrong in the block as damage of what is at `path`.

        Raises
        ------
        DamagedStoreError
            For whatever damage makes Zarr, a codec or a check raise; lack of memory and of files stays what it is.
        """
        try:
            yield
        except (OSError, MemoryError):
            raise
        except Exception as error:  # could be anything
            raise DamagedStoreError(
                f"the {self.name} at {path} cannot be read ({type(error).__name__}: {error}); write {self._it} again"
            ) from error

    @property
    def _it(self) -> str:
        return "them" if self.plural else "it"
