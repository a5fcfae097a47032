"""What the latents hold: active units, information, the aggregate posterior, walks."""

__all__: list[str] = []
