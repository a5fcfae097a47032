"""The notebooks run from top to bottom, and what is stored of them is what a run left."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def figures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_there_are_notebooks():
    assert [path.name for path in NOTEBOOKS] == [
        "01_first_vae.ipynb",
        "02_bounds.ipynb",
        "03_priors_and_likelihoods.ipynb",
        "04_objectives.ipynb",
    ]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def stored(request) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


class TestStored:
    def test_is_valid_and_names_the_common_kernel(self, stored):
        nbformat.validate(stored)
        assert stored.metadata.kernelspec.name == "python3"

    def test_was_executed_from_top_to_bottom(self, stored):
        counts = [cell.execution_count for cell in code_cells(stored)]
        assert counts == list(range(1, len(counts) + 1))

    def test_keeps_clean_outputs(self, stored):
        assert figures(stored) >= 5
        assert not [o for o in outputs(stored) if o.output_type == "error"]
        assert not [o for o in outputs(stored) if o.get("name") == "stderr"]

    def test_names_no_path_of_a_machine(self, stored):
        texts = [cell.source for cell in stored.cells] + [
            o.get("text", "") for o in outputs(stored)
        ]
        for text in texts:
            assert not [p for p in ("/home/", "/tmp/", "/root/", "/Users/") if p in text]

    def test_starts_with_prose(self, stored):
        assert stored.cells[0].cell_type == "markdown"
        assert stored.cells[0].source.startswith("# ")

    def test_links_lead_to_files_that_are_there(self, stored):
        text = "\n".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
        linked = [part.split(")")[0] for part in text.split("](")[1:]]
        assert linked
        assert all((FOLDER / name).is_file() for name in linked)


@pytest.mark.slow
def test_runs_from_top_to_bottom(stored, tmp_path):
    shown = figures(stored)
    client = NotebookClient(
        stored, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    executed = client.execute()
    assert figures(executed) == shown
    assert not list(tmp_path.iterdir()), "the notebook left files behind"
