"""Work on several machines, by Dask: `connected` gives an executor."""

from steelman.clusters.cluster import connected, executor_of

__all__ = ["connected", "executor_of"]
