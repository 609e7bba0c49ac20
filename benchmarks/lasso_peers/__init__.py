"""What `benchmarks.lasso` runs in processes of their own: one module per solver.

Other libraries are given the dense problem from which row weights and unpenalised columns are eliminated. Their modules
need NumPy and SciPy only, as some of them run in an environment without JAX.
"""
