"""The parts of the job that trains networks."""
