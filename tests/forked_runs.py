"""A program that has everything imported and forks a run whenever it is told to: what is killed costs no start.

Started with the paths of an atlas and a field. It reads lines of JSON, ``{"store": ..., "kill_s": ...}``, and answers
each with how the run ended: "killed", or "finished" in how many seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import anndata  # noqa: F401
import dask.array  # noqa: F401
import distributed  # noqa: F401
import zarr  # noqa: F401

import stabdask as sd
import stabdask.fields.hopfield_linear
import stabdask.fields.reading
import stabdask.runs.runner


def run(atlas: str, field: str, store: str, options: dict) -> None:
    cells = sd.open_cells(atlas, layer="M_t", cluster_key="state")
    sd.run(cells, sd.read_field(field), store, workers=0, progress=False, **options)


def forked(atlas: str, field: str, request: dict) -> dict:
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(atlas, field, request["store"], request["options"])
            code = 0
        finally:
            os._exit(code)
    while True:
        seconds = time.monotonic() - begin
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return {"ended": "finished" if status == 0 else f"status {status}", "seconds": seconds}
        if request["kill_s"] is not None and seconds >= request["kill_s"]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"ended": "killed", "seconds": seconds}
        time.sleep(0.0005)


def main(atlas: str, field: str) -> None:
    for line in sys.stdin:
        print(json.dumps(forked(atlas, field, json.loads(line))), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(*sys.argv[1:])
