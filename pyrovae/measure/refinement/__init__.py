"""Per-datum refinement of q(z | x), and the amortization and approximation gaps it measures."""

__all__: list[str] = []
