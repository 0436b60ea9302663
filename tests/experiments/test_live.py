"""The page of a run that trains, as a browser on this machine gets it."""

import http.client
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import projection_run as runs
from experiments import report
from experiments.pages import figures, live
from html_check import check

ROOT = Path(__file__).parents[2]


@pytest.fixture
def population(tmp_path):
    return runs.Population(tmp_path / "run", runs.configuration(2, 4))


@pytest.fixture
def get(population, monkeypatch):
    """Ask a server of the run for a path; returns status and text."""
    monkeypatch.setattr(figures, "figures", lambda seen: {})
    with live.server(population.store.path.parent, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def ask(path="/", host=None):
            connection = http.client.HTTPConnection(*server.server_address, timeout=60)
            headers = {} if host is None else {"Host": host}
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            connection.close()
            return answer.status, text

        yield ask
        server.shutdown()
        thread.join()


def test_the_page_follows_the_training(population, get, monkeypatch):
    status, first = get()
    assert status == 200
    elements, words = check(first)
    assert "No score yet" in words
    assert ("meta", {"http-equiv": "refresh", "content": str(live.REFRESH_S)}) in elements
    population.train(1000)
    assert get() == (200, first)  # drawn at most so often
    monkeypatch.setattr(live, "REFRESH_S", 0)
    status, later = get()
    assert status == 200
    assert "8 comparisons" in check(later)[1] or "training score of member" in check(later)[1]


def test_nothing_but_the_page_is_served(population, get):
    (population.store.path.parent / "index.html").write_text("secret")
    for path in ("/index.html", "/run.sqlite3", "/../run.sqlite3", "//etc/passwd", "/?", "/%2e/"):
        status, text = get(path)
        assert status == 404, path
        assert "secret" not in text


def test_other_machines_and_pages_of_elsewhere_are_kept_out(population, get):
    assert live.ADDRESS == "127.0.0.1"
    assert get(host="evil.example:80")[0] == 403
    assert get(host="127.0.0.1.evil.example:80")[0] == 403
    assert get(host="localhost:1")[0] == 200


def test_a_run_that_is_gone_is_said(population, get, tmp_path):
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert get()[0] == 503


def test_the_command_serves_until_it_is_stopped_and_writes_nothing(population):
    run_dir = population.store.path.parent
    before = sorted(run_dir.iterdir())
    child = subprocess.Popen(
        [sys.executable, "-m", "experiments.report", str(run_dir), "--serve", "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    line = child.stdout.readline()
    port = int(line.partition("127.0.0.1:")[2].partition("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/")
    check(connection.getresponse().read().decode())
    connection.close()
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=60) == 0
    child.stdout.close()
    assert sorted(run_dir.iterdir()) == before


def test_a_port_that_is_taken_and_flags_that_contradict_are_refused(population, get, capsys):
    run_dir = str(population.store.path.parent)
    with live.server(population.store.path.parent, 0) as server:
        taken = str(server.server_port)
        for flags, words in (
            (["--port", taken], f"--port {taken} cannot be used"),
            (["--port", "70000"], "--port 70000 cannot be used"),
            (["--out", "there"], "leave one of them out"),
        ):
            with pytest.raises(SystemExit, match="2"):
                report.main([run_dir, "--serve", *flags])
            assert words in capsys.readouterr().err
