"""The page on object storage: its code runs as it stands there, against a local server; its words are the code's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import anndata
import pytest
from s3_server import FaultProxy, environment, make_bucket, moto_server, upload

import stabdask as sd
from stabdask.cli.main import build_parser
from stabdask.files import bucket_client, leases

PAGE = Path(__file__).parents[1] / "notebooks" / "object_storage.md"


@pytest.mark.s3
def test_the_code_gives_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = sd.simulate_atlas(tmp_path, n_cells=300, n_genes=40, n_regulators=20)
    anndata.read_h5ad(atlas.cells).write_zarr(tmp_path / "atlas.zarr")
    sd.read_field(atlas.field).save(tmp_path / "model.zarr")
    script = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL))
    # Worker processes are started by the script of the README, in its own test.
    assert script.count('memory="4GB"') == 1
    (tmp_path / "script.py").write_text(script.replace('memory="4GB"', "workers=0, progress=False"))
    with moto_server() as port:
        proxy = FaultProxy(port)
        make_bucket(port, "my-atlases")
        for name, value in environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        bucket_client._client.cache_clear()
        upload(tmp_path / "atlas.zarr", "s3://my-atlases/atlas.zarr")
        command = [sys.executable, "-W", "error::stabdask.errors.StabdaskWarning", "script.py"]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ)
        )
        proxy.close()
    assert done.returncode == 0, done.stderr
    assert "store        s3://my-atlases/stability.zarr: ok" in done.stdout


def test_the_commands_of_the_page_are_commands() -> None:
    lines = (
        re.findall(r"```sh\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)[0].replace("\\\n", " ").splitlines()
    )
    assert len(lines) == 4
    for line in lines:
        options = build_parser().parse_args(line.split()[1:])
        assert options.store == "s3://my-atlases/stability.zarr"


def test_the_page_says_what_the_code_does() -> None:
    text = " ".join(PAGE.read_text().split())
    assert f"replaces it every {leases.BEAT_S:.0f} s" in text
    assert f"without a sign of life for {leases.EXPIRY_S:.0f} s" in text
    assert f"`{bucket_client._RETRY_VARIABLE}` | how long a request is asked again" in text
    assert f"in seconds ({bucket_client._RETRY_S:.0f})" in text
    assert f"larger than {bucket_client.PART_BYTES // 2**20} MiB" in text


def test_the_page_is_found() -> None:
    assert "(object_storage.md)" in (PAGE.parent / "README.md").read_text()
    assert "(notebooks/object_storage.md)" in (PAGE.parents[1] / "README.md").read_text()
