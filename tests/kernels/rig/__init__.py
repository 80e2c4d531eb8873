"""The host's side of `tests/kernels/run`: kernels, the guests' root, the tests, the virtual machine, the results."""
