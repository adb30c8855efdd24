"""The parts of the jobs that train, evaluate and use factorizations."""
