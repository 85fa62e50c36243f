"""Files and what stands for them in a bucket: places, atomic writes, Zarr groups that appear whole or not at all."""

from stabdask.files.groups import new_group, open_group, read_names, write_array, write_names
from stabdask.files.local import cannot_write, fsync_directory, fsync_file, sweep_beside
from stabdask.files.outputs import new_directory, new_file, require_folder, write_atomically
from stabdask.files.places import Place, existing_path, existing_place, local_path, location, place_of

__all__ = [
    "Place",
    "cannot_write",
    "existing_path",
    "existing_place",
    "fsync_directory",
    "fsync_file",
    "local_path",
    "location",
    "new_directory",
    "new_file",
    "new_group",
    "open_group",
    "place_of",
    "read_names",
    "require_folder",
    "sweep_beside",
    "write_array",
    "write_atomically",
    "write_names",
]
