"""How steps are run over immutable shards: here, in worker processes or on a cluster; none of it knows what a step does."""
