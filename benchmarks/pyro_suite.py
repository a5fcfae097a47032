"""Run Pyro's own tests of inference with `pyrovae.SVI` in the place of `pyro.infer.SVI`.

    python benchmarks/pyro_suite.py CHECKOUT                       # the compiler is the identity
    python benchmarks/pyro_suite.py CHECKOUT --compiler inductor   # every step is compiled: hours

CHECKOUT is a clone of pyro-ppl/pyro, near the version that is installed. Its tests run twice, with
Pyro's SVI and with ours, in a process pool each; the report names each test that passes with the
first and not with the second, by what it says. The tests turn every warning into an error; the
sentence by which a step falls back to Pyro's is let through, and counted.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

FILES = [
    "infer/test_inference.py",
    "infer/test_elbo_mapdata.py",
    "infer/test_valid_models.py",
    "infer/test_gradient.py",
    "nn/test_module.py",
]
PLUGIN = """
import os
import torch

torch.set_num_threads(1)
if os.environ["CONTESTANT"] == "pyrovae":
    import pyro.infer
    import pyro.infer.svi
    import pyrovae
    import pyrovae.train.svi

    pyro.infer.SVI = pyro.infer.svi.SVI = pyrovae.SVI
    if os.environ["COMPILER"] == "identity":
        torch.compile = lambda graph, **options: graph
    end = pyrovae.SVI._end

    def noted(svi, reason):
        with open(os.environ["SENTENCES"], "a") as said:
            said.write(os.environ.get("PYTEST_CURRENT_TEST", "") + "\\t" + reason + "\\n")
        end(svi, reason)

    pyrovae.SVI._end = noted
"""


def run(checkout: Path, contestant: str, compiler: str, folder: Path) -> dict[str, str | None]:
    """Return what each test says; None where it passes."""
    report = folder / f"{contestant}.xml"
    command = [
        *(sys.executable, "-m", "pytest", "-p", "plugin", "-c", "setup.cfg", "--rootdir", "."),
        *(f"tests/{name}" for name in FILES),
        *("-k", "not jit and not Jit", "-q", "-p", "no:cacheprovider", "-n", "2"),
        *("-W", "ignore:pyrovae.SVI runs its steps uncompiled:UserWarning"),
        *("-W", "ignore:pyrovae.SVI runs steps of such shapes uncompiled:UserWarning"),
        *("-W", "ignore:the arguments had more than:UserWarning"),
        f"--junitxml={report}",
    ]
    environment = {
        **os.environ,
        "CONTESTANT": contestant,
        "COMPILER": compiler,
        "SENTENCES": str(folder / "sentences.tsv"),
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(command, cwd=folder, env=environment, check=False)
    return dict(map(_outcome, ElementTree.parse(report).iter("testcase")))


def _outcome(case: ElementTree.Element) -> tuple[str, str | None]:
    name = f"{case.get('classname')}::{case.get('name')}"
    for kind in ("failure", "error", "skipped"):
        found = case.find(kind)
        if found is not None:
            return name, f"{kind}: {(found.get('message') or '').partition(chr(10))[0][:160]}"
    return name, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--compiler", choices=["identity", "inductor"], default="identity")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Beside the tests alone: the checkout's own pyro is not to shadow the one installed.
        (folder / "tests").symlink_to(args.checkout.resolve() / "tests")
        (folder / "setup.cfg").write_text((args.checkout / "setup.cfg").read_text())
        (folder / "plugin.py").write_text(PLUGIN)
        theirs = run(args.checkout, "pyro", args.compiler, folder)
        ours = run(args.checkout, "pyrovae", args.compiler, folder)
        sentences = folder / "sentences.tsv"
        said = sentences.read_text().splitlines() if sentences.exists() else []
    passing = [test for test, says in theirs.items() if says is None]
    kinds = collections.defaultdict(list)
    for test in passing:
        if ours.get(test, "missing") is not None:
            kinds[ours.get(test, "missing")].append(test)
    left = sum(map(len, kinds.values()))
    print(f"{len(passing)} pass with pyro.infer.SVI, {len(passing) - left} with pyrovae.SVI")
    for says, tests in sorted(kinds.items(), key=lambda kind: -len(kind[1])):
        print(f"{len(tests)} x {says}", *(f"    {test}" for test in tests), sep="\n")
    tests_said = {line.partition(" ")[0] for line in said}
    print(f"{len(tests_said)} tests ran uncompiled, with a sentence:")
    reasons = collections.Counter(line.partition("\t")[2][:140] for line in said)
    for reason, count in reasons.most_common():
        print(f"{count} x {reason}")


if __name__ == "__main__":
    main()
