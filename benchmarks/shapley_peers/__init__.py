"""Other packages' estimators of Shapley values, each `f(game, key=key, budget=B) -> Attribution`.

A peer has `ESTIMATORS` by name, and `missing(name)`, which says why one of them cannot run, or "". One that cannot do a
problem raises `asked.RefusedError`, with the reason.
"""
