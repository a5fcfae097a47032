"""Files that are written whole or not at all, and held against a schema when they are read."""

from pyrovae.files.atomic import (
    json_as_bytes,
    tensors_as_bytes,
    write_atomically,
    write_together,
)

__all__ = ["json_as_bytes", "tensors_as_bytes", "write_atomically", "write_together"]
