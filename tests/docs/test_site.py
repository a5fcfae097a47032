"""The site: docstrings become pages, every public name has one, and every link resolves."""

import importlib
import inspect
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
from torch.distributions import Distribution

import pyrovae as pv
from pyrovae.distributions.flows import zuko

for name in ("sphinx", "latex2mathml"):
    pytest.importorskip(name, reason="the site is built with `pip install 'pyrovae[docs]'`")

DOCS = Path(__file__).parents[2] / "docs"
BUILT = DOCS / "_build" / "html"


@pytest.fixture(autouse=True)
def _extensions(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    validates = Distribution._validate_args  # which the import of another project may change
    monkeypatch.setattr(Distribution, "_validate_args", validates)


def extension(name):
    return importlib.import_module(name)


class TestDocstrings:
    def rst(self, text, scope=None):
        return extension("docstrings").to_rst(text, scope)

    def test_formulas(self):
        assert self.rst(r"Return $x_n$.") == r"Return :math:`x_n`."
        assert self.rst("Below:\n\n$$ a\n   b $$") == "Below:\n\n.. math:: a b"

    def test_names_of_the_reference_are_links(self):
        assert self.rst("See `pv.evaluate`.") == "See :py:obj:`pv.evaluate <pyrovae.evaluate>`."
        assert self.rst("`fit(x)` and `nothing`") == "``fit(x)`` and ``nothing``"
        assert self.rst("`pyro.param`") == ":py:obj:`pyro.param <pyro.primitives.param>`"

    def test_a_name_is_that_of_its_own_module(self):
        limit = pv.psis.limit
        assert self.rst("`limit`", pv.psis.beyond) == ":py:obj:`limit <pyrovae.psis.limit>`"
        assert self.rst("`particles`", limit) == "``particles``", "an argument is no link"

    def test_the_first_of_each_word_is_a_link(self):
        text = "The k-hat of k-hats, and the\naggregate posterior"
        linked = "The :term:`k-hat` of k-hats, and the\n:term:`aggregate posterior`"
        assert self.rst(text) == linked

    def test_a_word_with_a_second_meaning_needs_its_context(self):
        assert self.rst("The rate of the optimizer.") == "The rate of the optimizer."
        assert ":term:`rate`" in self.rst("The rate and the distortion.")

    def test_examples_and_blocks_stay_as_they_are(self):
        example = "Example:\n    >>> pv.evaluate  # a k-hat, $x$"
        assert self.rst(example) == example
        assert self.rst("Weights are\n\n    a * `b`") == "Weights are\n\n::\n\n    a * `b`"

    def test_each_reference_is_an_item(self):
        text = "References:\n    Neal, 2001. Annealed\n    Sampling.\n    Roe, 2017. Sticking."
        items = (
            "References:\n    - Neal, 2001. Annealed\n      Sampling.\n    - Roe, 2017. Sticking."
        )
        assert self.rst(text) == items

    def test_characters_of_markup_are_escaped(self):
        assert self.rst("KL(q | p), 2 * x") == r"KL(q \| p), 2 \* x"


class TestFormulas:
    def test_names_of_functions_stand_apart(self):
        mathml = extension("mathml").mathml
        assert "<mi>log</mi><mspace" in mathml(r"\log p(x)")
        assert "</msub><mspace" in mathml(r"\log_{10} K")
        assert "</mi></msub><mspace" in mathml(r"E_q \log p")
        assert "mspace" not in mathml(r"\log (x)")
        assert "&#x0223C;" in mathml(r"z \sim q"), "a relation, no letter"

    def test_those_of_every_docstring_are_well_formed(self):
        texts = [inspect.getdoc(item.value) or "" for item in extension("public").everything()]
        rst = "\n\n".join(map(extension("docstrings").to_rst, texts))
        formulas = re.findall(r":math:`([^`]+)`|\.\. math:: (.+)", rst)
        assert len(formulas) > 100
        for inline, display in formulas:
            ElementTree.fromstring(extension("mathml").mathml(inline or display))


class TestAlternatives:
    def test_a_plot_of_the_library_is_described_by_its_docstring(self):
        of_plot = extension("alternatives").of_plot
        wanted = "The ELBO, the rate and the distortion against the epoch."
        assert of_plot("history.plot()") == wanted
        assert of_plot("pv.plots.history(history)\npv.plots.save(figure, path)") == wanted
        assert not of_plot("plt.show()")

    def test_any_other_figure_by_the_sentence_above_it(self):
        sentence = extension("alternatives").sentence
        assert sentence("Images of a class,\na row each: see below. And more.") == (
            "Images of a class, a row each."
        )
        assert not sentence("")


def test_signatures_are_those_of_the_source():
    arguments, result = extension("signatures").shown(pv.evaluate)
    assert arguments.startswith("(target: ~pyrovae.types.Target, data: ~pyrovae.types.Data, *, ")
    assert result == "~pyrovae.Report"


class TestReference:
    def test_every_folder_has_a_page_and_every_public_name_a_place(self):
        reference = extension("reference")
        text = "\n".join(map(reference.page, reference.folders()))
        documented = set(re.findall(r"^\.\. auto\w+:: (.*)$", text, re.MULTILINE))
        for name in pv.__all__:
            value = getattr(pv, name)
            members = value.__all__ if inspect.ismodule(value) else ()
            wanted = [f"{name}.{member}" for member in members] or [name]
            values = [getattr(value, member) for member in members] or [value]
            for spelled, met in zip(wanted, values, strict=True):
                if not inspect.ismodule(met):
                    short = extension("public").spelling(met) if callable(met) else None
                    ends = {short or f"pyrovae.{spelled}"}
                    if not short:
                        last = spelled.rpartition(".")[2]
                        ends = {found for found in documented if found.endswith(f".{last}")}
                    assert ends & documented, f"{spelled} is on no page of the reference"

    def test_what_an_object_is_called_with_is_shown(self):
        text = extension("reference").page("measure")
        shown = r"(?m)^\.\. autoclass:: (.*)\n   :members:\n(?:   (:special.*))?"
        called = dict(re.findall(shown, text))
        assert called["pyrovae.AIS"] == ":special-members: __call__"
        assert not called["pyrovae.Report"]

    def test_every_documented_name_has_a_sentence(self):
        text = extension("reference").described
        assert not [item.name for item in extension("public").everything() if not text(item)]

    def test_what_is_in_another_project_is_there(self):
        zuko()  # imported by itself, it renames a class of torch, which other tests look for
        for path in (DOCS / "inventories").glob("*.txt"):
            for line in path.read_text().splitlines()[3:]:
                found(line.split()[0])


def found(dotted):
    """Return what a dotted name stands for, in a module or in an attribute."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            value = getattr(value, part)
        return value
    raise AssertionError(f"there is no {dotted}")


def test_a_name_that_is_not_there_is_found_missing():
    with pytest.raises(AttributeError):
        found("torch.NoSuchTensor")


def test_every_word_of_the_glossary_is_linked_from_a_docstring():
    to_rst, words = extension("docstrings").to_rst, extension("words").glossary()
    reference = extension("reference")
    texts = [reference.page(folder) for folder in reference.folders()]
    texts += [
        to_rst(inspect.getdoc(item.value) or "") for item in extension("public").everything()
    ]
    linked = {words[word] for word in re.findall(r":term:`([^`<]+)`", "\n".join(texts))}
    assert not set(words.values()) - linked


def test_the_gallery_has_every_figure():
    text = (DOCS / "gallery.md").read_text()
    missing = {
        name
        for name in set(pv.plots.__all__) - {"CLASSES", "Animation", "save"}
        if f"\npv.plots.{name}(" not in text or f"`pyrovae.plots.{name}`" not in text
    }
    assert not missing


def test_the_page_of_examples_has_every_script():
    text = (DOCS / "examples.md").read_text()
    stored = {path.name for path in (DOCS.parent / "examples").glob("*.py")}
    assert set(re.findall(r"`(\w+\.py)`", text)) == stored


class Links(HTMLParser):
    """The links and anchors of a page, the addresses that it loads, and images without a text."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors, self.loaded, self.silent = [], {""}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag == "img" and found.get("alt", "").endswith(found["src"].rpartition("/")[2]):
            self.silent.append(found["src"])  # without a text, Sphinx puts the file's name
        loads = {"script": "src", "img": "src", "link": "href", "iframe": "src"}
        address = found.get(loads.get(tag, ""), "")
        if tag != "link" or "stylesheet" in found.get("rel", "") or "icon" in found.get("rel", ""):
            self.loaded.append(address)


def broken(pages):
    """Return links that lead to no file or anchor of the pages, and loads that need a network."""
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target not in pages and not target.is_file():
                wrong.append(f"{path.name}: {link}")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                wrong.append(f"{path.name}: {link}, no such anchor")
        wrong += [f"{path.name} loads {a}" for a in page.loaded if urlsplit(a).netloc]
    return wrong


def test_a_broken_link_is_found(tmp_path):
    here = tmp_path / "a.html"
    page = Links('<p id="x"><a href="#x"><a href="#y"><a href="b.html"><script src="//far/s.js">')
    assert broken({here: page}) == [
        "a.html: #y, no such anchor",
        "a.html: b.html",
        "a.html loads //far/s.js",
    ]


@pytest.mark.skipif(not BUILT.is_dir(), reason="the site is not built: make -C docs html")
class TestBuilt:
    def test_every_link_resolves_and_nothing_is_loaded_from_a_network(self):
        pages = {path.resolve(): Links(path.read_text()) for path in BUILT.rglob("*.html")}
        assert len(pages) > 30
        assert not broken(pages)

    def test_every_image_has_a_text(self):
        silent = {path.name: Links(path.read_text()).silent for path in BUILT.rglob("*.html")}
        assert not {name: images for name, images in silent.items() if images}

    def test_formulas_need_no_script(self):
        text = (BUILT / "reference" / "weights.html").read_text()
        assert "<math" in text
        assert "mathjax" not in text.lower()
