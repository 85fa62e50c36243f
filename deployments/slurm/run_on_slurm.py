"""A run whose workers are SLURM jobs, from Python: on a login node, in a job, or line by line in a notebook.

    ATLAS=/data/atlas.h5ad FIELD=/data/model.h5sch STORE=/scratch/me/out.zarr python run_on_slurm.py

Further variables: LAYER, CLUSTER_KEY; CLUSTER, a file such as cluster.yaml (slurm); ADAPTIVE, workers as there is work
(0:4); OPTIONS, those of sd.run as JSON, e.g. '{"quantities": ["default", "drivers"]}'.
"""

import json
import os
import sys

import stabdask as sd

if __name__ == "__main__":
    given = os.environ
    cells = sd.open_cells(given["ATLAS"], layer=given.get("LAYER"), cluster_key=given.get("CLUSTER_KEY"))
    field = sd.read_field(given["FIELD"])
    options = json.loads(given.get("OPTIONS", "{}"))
    with sd.cluster(
        given.get("CLUSTER", "slurm"),
        adaptive=given.get("ADAPTIVE", "0:4"),
        say=lambda line: print(line, file=sys.stderr),
    ) as client:
        report = sd.run(cells, field, given["STORE"], client=client, **options)
    print(report)
