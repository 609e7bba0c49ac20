"""Speed and accuracy against peers: run them with `python -m benchmarks.<name>`."""
