"""Decimal numbers in the prose of a notebook are those that its stored run printed.

A number stands as it was printed, rounded, or in the code; or it follows from printed numbers or
from mathematics in a way that stands here. So whoever stores another run finds what to rewrite.
"""

import math
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
DECIMAL = re.compile(r"(?<![\w.])\d[\d,]*\.\d+(?!\w)")
SKIPPED = re.compile(r"\$\$.*?\$\$|`[^`]*`|section \d+\.\d+", re.DOTALL)


def numbers(text, start, line=0):
    """Return the numbers after a line's beginning, of the first such line or of a later one."""
    rest = re.findall(f"^ *{re.escape(start)}(.*)$", text, re.MULTILINE)[line]
    return [float(found) for found in re.findall(r"[-+]?\d+\.?\d*(?:e[-+]\d+)?", rest)]


def less(text, one, other, place=0):
    """Return the difference of two lines' numbers at a place."""
    return abs(numbers(text, one)[place] - numbers(text, other)[place])


def times_exact(text, place):
    """Return how many times the exact gradient at K = 4 the mean of STL is."""
    return numbers(text, "stl", 3)[3 * place] / numbers(text, "K = 4  exact")[place]


DERIVED = {
    "00_information": {"1.4427": lambda text: 1 / math.log(2)},
    "02_bounds": {
        "0.45": lambda text: less(text, "100 ", "1 "),
        "0.431": lambda text: -math.log(0.65),
        "1.050": lambda text: -math.log(0.35),
    },
    "04_objectives": {
        "3.36": lambda text: less(text, "shallow          ", "deep           "),
        "0.32": lambda text: numbers(text, "warm-up, 30")[1] - numbers(text, "warm-up, 30")[0],
        "1.72": lambda text: less(text, "free bits, 2 per site", "deep           "),
        "8.28": lambda text: less(text, "β = 0.25 ", "β = 1 ", 3),
        "13.26": lambda text: less(text, "β = 0.25 ", "β = 1 ", 2),
        "6.23": lambda text: less(text, *two_epochs(), 0),
        "0.47": lambda text: less(text, *two_epochs(), 1),
        "4.3": lambda text: times_exact(text, 0),
        "5.3": lambda text: times_exact(text, 1),
        "1.7": lambda text: rise_of_the_likelihood(text) ** (1 / 3),
        "1.08": lambda text: less(text, "ELBO            ", "IWAE-20, stl"),
        "2.36": lambda text: less(text, "ELBO            ", "IWAE-20, plain"),
        "0.26": lambda text: (
            numbers(text, "less log p(x), exact: ELBO")[1] - numbers(text, "65536")[2]
        ),
        "0.64": lambda text: 0.8**2,
    },
    "05_how_good_is_the_bound": {
        "0.47": lambda text: less(text, "IWAE-1000 ", "ELBO "),
        "0.014": lambda text: less(text, "IWAE-1000 ", "IWAE-100 "),
        "0.73": lambda text: less(text, "half as wide", "as trained", 3),
    },
    "06_disentanglement": {"6.93": lambda text: 2 * math.log(32)},
}


def two_epochs():
    return tuple(
        f"shallow, β = 0.25                   epoch {epoch}: objective" for epoch in (10, 50)
    )


def rise_of_the_likelihood(text):
    """Return the signal-to-noise ratio at K = 64 over that at K = 1."""
    _, first, *_, last = numbers(text, "VAE of digits, likelihood     plain")
    return last / first


def stored(stem):
    """Return the prose, the code and what was printed."""
    cells = nbformat.read(FOLDER / f"{stem}.ipynb", as_version=4).cells
    codes = [cell for cell in cells if cell.cell_type == "code"]
    shown = [
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for cell in codes
        for output in cell.outputs
    ]
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return prose, "\n".join(cell.source for cell in codes), "\n".join(shown).replace("−", "-")


def unheld(stem, prose, code, printed):
    """Return the decimal numbers of the prose that the run does not have."""
    known = [float(n.replace(",", "")) for n in DECIMAL.findall(printed)]
    known += [float(n) for n in re.findall(r"(?<![\w.])\d+(?![\w.])", printed)]
    derived, missing = DERIVED.get(stem, {}), []
    for said in DECIMAL.findall(SKIPPED.sub("", prose)):
        value, half = float(said.replace(",", "")), 0.51 * 10 ** -len(said.partition(".")[2])
        truth = known if said not in derived else [abs(derived[said](printed))]
        in_code = said in DECIMAL.findall(code) and said not in derived
        if not in_code and not any(abs(value - number) <= half for number in truth):
            missing.append(said)
    return missing


STEMS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("stem", STEMS)
def test_the_run_has_what_the_prose_says(stem):
    assert not unheld(stem, *stored(stem))


@pytest.mark.parametrize("stem", sorted(DERIVED))
def test_what_follows_from_printed_numbers_is_said(stem):
    said = DECIMAL.findall(SKIPPED.sub("", stored(stem)[0]))
    assert not set(DERIVED[stem]) - set(said)


def test_a_number_that_has_drifted_is_found():
    stem = "05_how_good_is_the_bound"
    prose, code, printed = stored(stem)
    assert unheld(stem, prose + "\n\nThe bound gains 7.77 nats.", code, printed) == ["7.77"]
    assert "0.73" in unheld(stem, prose, code, printed.replace("-23.304 ±", "-23.504 ±"))
