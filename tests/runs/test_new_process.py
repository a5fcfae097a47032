"""A run loads in a process that has done nothing but import the library."""

import pytest
from all_cases import CASES
from fresh import printed_by

import pyrovae as pv

FAMILIES = {name.partition(":")[0]: make for name, make in CASES.items()}

SCRIPT = """
import sys
import pyrovae as pv
for folder in sys.argv[1:]:
    print(sum(p.numel() for p in pv.load(folder).parameters()))
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def test_a_run_of_each_family_loads_where_no_part_was_named(tmp_path, script):
    """The public names are imported when they are first used: here none is but `load`."""
    folders, counts = [], []
    for i, make in enumerate(FAMILIES.values()):
        vae = make().vae
        pv.save(vae, tmp_path / str(i))
        folders.append(str(tmp_path / str(i)))
        counts.append(str(sum(p.numel() for p in vae.parameters())))
    assert printed_by(script, *folders, folder=tmp_path).split() == counts
