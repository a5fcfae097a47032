"""Optimize q(z | x) for each datum: what amortization and the family of the guide cost."""

__all__: list[str] = []
