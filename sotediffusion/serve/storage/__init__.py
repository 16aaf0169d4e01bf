"""What outlives every process: the queue of jobs and all that is told about them, pictures, keys, secrets."""
