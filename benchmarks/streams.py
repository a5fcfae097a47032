"""Time an epoch of training on streamed data beside one on the same data in memory.

    python benchmarks/streams.py --rows 20000 --columns 200 --rounds 15

The contestants train in turn, an epoch each per round. The table has the medians over the rounds
after the first: seconds, their ratio to those of the tensor in memory, and the same ratio of
processor time, in which a thread that reads ahead counts in full. The files are in a temporary
folder, and read from the disk's cache unless it is smaller than they are.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import torch
from pyarrow import parquet
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pv


def contestants(x, folder, batch_size):
    """Return the data of each contestant by name."""
    np.save(folder / "x.npy", x.numpy())
    columns = {f"c{j}": column.numpy() for j, column in enumerate(x.T)}
    parquet.write_table(pyarrow.table(columns), folder / "x.parquet", row_group_size=10_000)

    def batches():
        yield from x.split(batch_size)

    loader = DataLoader(
        TensorDataset(x), batch_size, shuffle=True, num_workers=1, persistent_workers=True
    )
    return {
        "a tensor in memory": x,
        "a memory-mapped .npy": pv.data.Streamed(folder / "x.npy"),
        "row groups of a .parquet": pv.data.Streamed(folder / "x.parquet"),
        "a function of batches": batches,
        "a DataLoader, one worker": loader,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("rows", 20_000), ("columns", 200), ("batch", 500), ("rounds", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--hidden", type=int, default=200)
    given = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(given.rows, given.columns)
    seconds, processor = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        sources = contestants(x, Path(folder), given.batch)
        for number in range(given.rounds):
            for name, data in sources.items():
                torch.manual_seed(0)
                vae = pv.mlp_vae(
                    given.columns,
                    latents=10,
                    hidden=given.hidden,
                    likelihood=pv.likelihoods.Normal,
                )
                before = time.process_time()
                history = pv.fit(vae, data, epochs=1, batch_size=given.batch, callbacks=[])
                if number:
                    processor.setdefault(name, []).append(time.process_time() - before)
                    seconds.setdefault(name, []).append(history.epochs[0].seconds)
    print(
        f"| {given.rows:,} x {given.columns}, batches of {given.batch} | s per epoch | ratio "
        "| ratio of processor time |"
    )
    print("|---|---:|---:|---:|")
    first = next(iter(seconds))
    for name in seconds:
        median = statistics.median(seconds[name])
        ratio = median / statistics.median(seconds[first])
        share = statistics.median(processor[name]) / statistics.median(processor[first])
        print(f"| {name} | {median:.2f} | {ratio:.2f} | {share:.2f} |")


if __name__ == "__main__":
    main()
