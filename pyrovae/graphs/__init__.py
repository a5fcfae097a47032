"""Record a Pyro program as a compiled graph, and guard the values it was recorded under."""

__all__: list[str] = []
