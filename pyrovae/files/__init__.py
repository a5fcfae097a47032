"""Write files atomically, and validate them against schemas when they are read."""

from pyrovae.files.atomic import (
    json_as_bytes,
    tensors_as_bytes,
    write_atomically,
    write_together,
)

__all__ = ["json_as_bytes", "tensors_as_bytes", "write_atomically", "write_together"]
