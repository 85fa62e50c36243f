"""Batched linear algebra: arrays in, arrays out; nothing here knows of cells, files or Dask."""
