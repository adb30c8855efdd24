"""The parts that the jobs in jobs/ are made of: configuration, runs, gate, publication."""
