"""Solvers of other libraries for the task of `benchmarks.submodels`: one module per library, in the form of `Peer`."""
