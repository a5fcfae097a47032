"""Say what the labels of a torch data set are for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch.utils.data import Dataset, IterableDataset

__all__ = ["Labeled"]

Labels = Literal["drop", "context"]


class Labeled(Dataset[Any]):
    """A torch data set of pairs (x, label), whose labels are dropped or passed as context.

    Args:
        dataset: a map-style data set, such as those of torchvision.
        labels: "drop" to train on x alone; "context" to pass the label to the programs, as
            `model(x, label)`.

    Raises:
        ValueError: if `labels` is neither, or the data set has no items by number.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from pyrovae.data import Labeled
        >>> pairs = TensorDataset(torch.zeros(5, 2), torch.arange(5))
        >>> Labeled(pairs, labels="drop")[3]
        (tensor([0., 0.]),)
    """

    def __init__(self, dataset: Dataset[Any], *, labels: Labels) -> None:
        if labels not in ("drop", "context"):
            raise ValueError(f"labels must be 'drop' or 'context'; got {labels!r}")
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
            raise ValueError(
                f"Labeled takes a data set with items by number; got {type(dataset).__name__}: "
                "drop the labels where it yields its items"
            )
        self.dataset, self.labels = dataset, labels

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, number: int) -> Any:
        """Return (x,) or (x, label)."""
        item = self.dataset[number]
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise ValueError(
                f"Labeled takes items (x, label); got {type(item).__name__}: give the data set "
                "itself"
            )
        return (item[0],) if self.labels == "drop" else item

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the items."""
        return map(self.__getitem__, range(len(self)))
