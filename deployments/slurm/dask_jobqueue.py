"""A run whose workers are SLURM jobs, from Python: on a login node, in a job, or line by line in a notebook.

ATLAS=/data/atlas.h5ad FIELD=/data/model.h5sch STORE=/scratch/me/out.zarr python dask_jobqueue.py
"""

import os
import sys

import stabdask as sd

if __name__ == "__main__":
    cells = sd.open_cells(
        os.environ["ATLAS"], layer=os.environ.get("LAYER"), cluster_key=os.environ.get("CLUSTER_KEY")
    )
    field = sd.read_field(os.environ["FIELD"])
    workers = int(os.environ.get("WORKERS", "4"))
    with sd.cluster(
        os.environ.get("CLUSTER", "slurm"), workers=workers, say=lambda line: sys.stderr.write(line + "\n")
    ) as client:
        report = sd.run(cells, field, os.environ["STORE"], client=client)
    sys.stdout.write(f"{report}\n")
