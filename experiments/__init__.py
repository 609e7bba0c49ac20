"""One file per claim: run them with `python -m experiments.<name>`."""
