"""`pyrovae explore` answers its own page alone, on this machine alone, and writes nothing."""

import base64
import hashlib
import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from complaints import complaint

import pyrovae as pv
from pyrovae.cli.explore import World
from pyrovae.cli.explore.document import document

pytest.importorskip("starlette", reason="the explorer needs starlette: pyrovae[explore]")
pytest.importorskip("uvicorn", reason="the explorer needs uvicorn: pyrovae[explore]")

from explored import served  # noqa: E402

from pyrovae.cli.explore.server import HEADERS, LARGEST, listening  # noqa: E402


@pytest.fixture(scope="module")
def application():
    with pv.seeded(0):
        vae = pv.mlp_vae(6, latents=2, hidden=8)
        x = torch.rand(30, 6).round()
    with served(World(vae, x, title="<b>one & two</b>")) as application:
        yield application


def asked(application, method, path, body=None, **headers):
    """Return the status, the headers and the body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", application.port, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


def question(application, name, *arguments, **headers):
    headers = {"Content_Type": "application/json"} | headers
    path = f"/{application.token}/{name}"
    status, _, text = asked(application, "POST", path, json.dumps(arguments), **headers)
    return status, text


class TestAnswers:
    def test_the_page_holds_its_script_and_permits_no_other(self, application):
        status, headers, page = asked(application, "GET", f"/{application.token}/")
        assert status == 200
        assert headers["content-type"].startswith("text/html")
        assert {name: headers[name.lower()] for name in HEADERS} == HEADERS
        assert "<title>&lt;b&gt;one &amp; two&lt;/b&gt;</title>" in page
        policy = re.search('Content-Security-Policy" content="([^"]*)"', page)[1]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "connect-src 'self'" in policy
        for tag in ("script", "style"):
            (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}';" in policy
        assert not re.search(r'(src|href)="(?!data:)', page)

    def test_questions_are_methods_of_the_world(self, application):
        status, text = question(application, "decode", [[0.5, -0.5]], 0)
        assert status == 200
        assert json.loads(text) == application.world.decode([[0.5, -0.5]], 0)

    def test_nan_is_null(self, application, monkeypatch):
        monkeypatch.setattr(application.world, "density", lambda *_: {"prior": math.nan})
        assert question(application, "density", [0.0, 0.0]) == (200, '{"prior":null}')


class TestRefusals:
    @pytest.mark.parametrize(
        "change", ["", "x", "short", "é"], ids=["none", "long", "short", "accent"]
    )
    def test_another_token(self, application, change):
        token = application.token[:-1] if change == "short" else change and application.token + "x"
        token = "%C3%A9" if change == "é" else token
        for method, path in (("GET", f"/{token}/"), ("POST", f"/{token}/world")):
            status, _, text = asked(
                application, method, path, "[]", Content_Type="application/json"
            )
            assert status == 403
            assert "lacks its token" in text

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1", "127.0.0.1.evil.example:{port}"]
    )
    def test_another_host(self, application, host):
        host = host.format(port=application.port)
        status, text = question(application, "world", Host=host)
        assert (status, text) == (403, f"This server is 127.0.0.1:{application.port} only.\n")

    @pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
    def test_another_origin(self, application, origin):
        assert question(application, "world", Origin=origin) == (
            403,
            "Another site may not ask this server.\n",
        )
        own = f"http://127.0.0.1:{application.port}"
        assert question(application, "path", [0, 0], [1, 1], Origin=own)[0] == 200

    @pytest.mark.parametrize("name", ["", "__init__", "_row", "target", "world/", "nothing"])
    def test_what_is_no_question(self, application, name):
        assert question(application, name)[0] == 404

    def test_a_question_by_get_or_of_another_type(self, application):
        path = f"/{application.token}/world"
        assert asked(application, "GET", path)[0] == 404
        assert asked(application, "POST", path, "[]", Content_Type="text/plain")[0] == 415

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ("{", "Expecting property name"),
            ("{}", "a question is a list of arguments"),
            ("[1, 2, 3, 4]", "takes 2 positional arguments but 5 were given"),
            ("[99]", "there are the data 0 to 29; got 99"),
            ("[" + " " * LARGEST, "a question has 1,048,576 bytes at most"),
        ],
        ids=["cut", "no list", "too many", "no row", "large"],
    )
    def test_a_question_that_is_wrong_is_answered_in_one_line(self, application, body, said):
        path = f"/{application.token}/datum"
        status, _, text = asked(application, "POST", path, body, Content_Type="application/json")
        assert status == 422
        assert said in json.loads(text)["error"]
        assert "\n" not in text

    def test_a_decoder_that_fails_is_one_line(self, application, monkeypatch):
        def broken(*_):
            raise ArithmeticError("no\nnumbers")

        monkeypatch.setattr(application.world, "decode", broken)
        status, text = question(application, "decode", [[0.0, 0.0]])
        assert (status, json.loads(text)) == (500, {"error": "ArithmeticError: no numbers"})

    def test_a_title_is_no_place_for_the_script(self):
        assert "<title>@SCRIPT@</title>" in document("@SCRIPT@", "start()")
        assert document("@SCRIPT@", "start()").count("start()") == 1

    def test_a_script_that_would_end_its_element(self):
        with pytest.raises(ValueError, match="would end it"):
            document("x", "'</SCRIPT>'")


def test_a_browser_that_goes_away_leaves_the_server_answering(application, capfd):
    head = f"POST /{application.token}/world HTTP/1.1\r\nHost: 127.0.0.1:{application.port}\r\n"
    kind = "Content-Type: application/json\r\n"
    for length, body in ((100, "[1,"), (2, "[]")):  # before the question ends, and the answer
        with socket.create_connection(("127.0.0.1", application.port)) as sock:
            sock.sendall(f"{head}{kind}Content-Length: {length}\r\n\r\n{body}".encode())
    assert question(application, "path", [0, 0], [1, 1])[0] == 200
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore") / "run"
    pv.save(
        pv.mlp_vae(64, latents=2, hidden=8),
        folder,
        data={"name": "digits", "shape": [1, 8, 8], "binarization": "dynamic"},
    )
    return folder


class TestCommand:
    def test_it_serves_until_ctrl_c_and_writes_nothing(self, run):
        def contents():
            return {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]}

        before = contents()
        command = [sys.executable, "-m", "pyrovae", "explore", str(run), "-n", "20"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        try:
            url = process.stdout.readline().strip()
            port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]{32})/", url).groups()
            assert asked(SimpleNamespace(port=int(port)), "GET", f"/{token}/")[0] == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
            process.communicate()
        assert contents() == before

    def test_a_port_in_use(self, run, capsys):
        with listening() as sock:
            assert sock.getsockname()[0] == "127.0.0.1"
            port = sock.getsockname()[1]
            line = complaint(capsys, "explore", run, "-n", "5", "--port", port)
        assert line.endswith(f"port {port} is in use: give another, or 0 for any free one")

    def test_a_port_that_is_none(self, run, capsys):
        line = complaint(capsys, "explore", run, "-n", "5", "--port", 70000)
        assert "port 70000 cannot be used" in line

    def test_a_run_that_is_not_there(self, tmp_path, capsys):
        assert str(tmp_path / "no") in complaint(capsys, "explore", tmp_path / "no")

    def test_a_run_without_data(self, tmp_path, capsys):
        pv.save(pv.mlp_vae(4, latents=2, hidden=8), tmp_path / "run")
        line = complaint(capsys, "explore", tmp_path / "run")
        assert line.endswith("the run records no data set: name one with --data")

    def test_starlette_is_asked_for(self, run, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "starlette", None)
        line = complaint(capsys, "explore", run, "-n", "5")
        assert line.endswith(
            "starlette is not installed: python -m pip install 'pyrovae[explore]'"
        )
