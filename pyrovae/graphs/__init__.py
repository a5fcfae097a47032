"""Record a Pyro program as a compiled graph, and know for what the graph holds."""

__all__: list[str] = []
