"""Shared runs whose saving, copying, upload or download was cut off; the hub's library meets a server that hangs up."""

import functools
import hashlib
import json
import os
import shutil
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import torch

from causalvae_pyro import CausalGraph, load, save
from causalvae_pyro.checkpoints.hub import from_pretrained, push_to_hub, save_pretrained
from tests.builders import make_run

FILES = ("config.json", "model.safetensors")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
GRAPH = CausalGraph(["a", "b"], [("a", "b")])


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    return torch.rand(8, 1, 16, 16), torch.randn(8, 2)


def make(data, graph=GRAPH, seed=0):
    return make_run(graph, *data, seed=seed, decoder="conv")


@pytest.fixture(scope="module")
def run(data):
    return make(data)


def weights(run):
    return torch.cat([p.detach().flatten() for module in (run.model, run.guide) for p in module.parameters()])


def same(run, other):
    return run.graph == other.graph and torch.equal(weights(run), weights(other))


@pytest.mark.parametrize("name", FILES)
def test_a_copied_file_that_was_cut_off(name, run, tmp_path):
    save_pretrained(run, tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    # The last byte of the configuration is a line break.
    last = len(whole) - (1 if name == "config.json" else 0)
    for size in {0, 1, 3, 7, 8, 9, 100, *range(0, last, last // 20), last - 10, last - 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"^path: {path} is (truncated|not a run)") as caught:
            from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    assert same(from_pretrained(tmp_path), run)


@pytest.mark.parametrize("graph", [CausalGraph(["b", "a"], [("b", "a")]), CausalGraph(["a", "b"], [("b", "a")])], ids=repr)
def test_a_folder_that_holds_half_of_one_run_and_half_of_another(graph, run, data, tmp_path):
    # The weights of either fit the other's modules, and are the parameters of another graph.
    other = make(data, graph, seed=1)
    save_pretrained(run, tmp_path / "run")
    save_pretrained(other, tmp_path / "other")
    for name in FILES:
        shutil.copytree(tmp_path / "run", tmp_path / name)
        shutil.copyfile(tmp_path / "other" / name, tmp_path / name / name)
        with pytest.raises(
            ValueError, match=r"^path: \S+model\.safetensors was saved with other modules than \S+config\.json"
        ) as caught:
            from_pretrained(tmp_path / name)
        assert "copy or save the run again" in str(caught.value)
        shutil.copytree(tmp_path / "other", tmp_path / name, dirs_exist_ok=True)
        assert same(from_pretrained(tmp_path / name), other)


def test_saving_over_another_run_is_cut_off(run, data, tmp_path, monkeypatch):
    save(run, tmp_path)
    other, replace = make(data, CausalGraph(["a", "b"]), seed=1), os.replace

    def breaks(source, target):
        if str(target).endswith("config.json"):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", breaks)
        with pytest.raises(KeyboardInterrupt):
            save(other, tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(FILES)
    with pytest.raises(ValueError, match="was saved with other modules"):
        load(tmp_path)
    save(other, tmp_path)
    assert same(load(tmp_path), other)


def test_runs_saved_without_the_digest_still_load(run, tmp_path):
    from safetensors.torch import load_file, save_file

    save(run, tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    assert same(load(tmp_path), run)


class Hub(ThreadingHTTPServer):
    """Hugging Face's hub with one repository; ``act`` may hang up in the middle of a file."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Answers)
        self.files = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
        self.asked, self.share = [], {}

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def send(self, content, kind, share=1.0, start=0, **headers):
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in {"Content-Type": kind, "Content-Length": len(content) - start, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[start : int(share * len(content))])

    def do_GET(self):
        files = self.server.files
        path = self.path.split("?")[0]
        if path.startswith("/api/models/me/it/tree/"):
            found = [{"type": "file", "oid": digest(c), "size": len(c), "path": name} for name, c in files.items()]
            self.send(json.dumps(found).encode(), "application/json")
        elif path.startswith("/api/models/me/it"):
            found = {"id": "me/it", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            self.send(json.dumps(found).encode(), "application/json")
        else:
            name = path.rsplit("/", 1)[-1]
            content = files[name]
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            if self.command == "GET":
                self.server.asked.append(name)
            about = {"ETag": f'"{digest(content)}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
            self.send(content, "application/octet-stream", self.server.share.get(name, 1.0), start, **about)

    do_HEAD = do_GET


def digest(content):
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(run, tmp_path, monkeypatch):
    save_pretrained(run, tmp_path / "published")
    server = Hub(tmp_path / "published")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    options = {"endpoint": server.address, "cache_dir": tmp_path / "cache", "token": False}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", functools.partial(huggingface_hub.snapshot_download, **options))
    # It tries five times, a second apart.
    monkeypatch.setattr("time.sleep", lambda _: None)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", FILES)
def test_the_hub_hangs_up(name, share, run, hub, tmp_path):
    hub.share = {name: share}
    with pytest.raises(OSError, match=r"^(the hub cannot be reached \(|Consistency check failed)") as caught:
        from_pretrained("me/it")
    assert "again" in str(caught.value) or "retry" in str(caught.value)
    # Nothing of it is kept.
    snapshots = [path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")]
    assert name not in snapshots
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    hub.share = {}
    assert same(from_pretrained("me/it"), run)


def test_the_hub_hangs_up_and_is_gone(run, hub, tmp_path):
    hub.share = {"model.safetensors": 0.5}
    with pytest.raises(OSError, match=r"^(the hub cannot be reached \(|Consistency check failed)"):
        from_pretrained("me/it")
    hub.shutdown()
    hub.server_close()
    # What there is of the repository is not taken for all of it.
    with pytest.raises(OSError, match=r"me/it|force_download=True"):
        from_pretrained("me/it")


@pytest.mark.parametrize("name", FILES)
def test_what_the_hubs_library_has_kept_is_damaged(name, run, hub, tmp_path):
    assert same(from_pretrained("me/it"), run)
    (path,) = (tmp_path / "cache").rglob(f"snapshots/*/{name}")
    path = path.resolve()
    whole = path.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:size])
        for _ in range(2):
            with pytest.raises(
                ValueError, match=rf"^path: \S+{name} is .*; if the download of me/it was cut off, .*force_download"
            ):
                from_pretrained("me/it")
    hub.asked.clear()
    assert same(from_pretrained("me/it", force_download=True), run)
    assert sorted(hub.asked) == sorted(FILES)
    assert same(from_pretrained("me/it"), run)


def test_an_unknown_class_is_no_matter_of_the_download(run, hub):
    config = json.loads(hub.files["config.json"])
    config["modules"]["guide"]["class"] = "Mine"
    hub.files["config.json"] = json.dumps(config).encode()
    with pytest.raises(ValueError, match=r"^classes: the run uses 'Mine'") as caught:
        from_pretrained("me/it")
    assert "force_download" not in str(caught.value)


def test_an_upload_breaks(run, monkeypatch, tmp_path):
    repository, breaks = tmp_path / "hub", [True]

    class Api:
        def __init__(self, token):
            pass

        def create_repo(self, name, private, exist_ok):
            repository.mkdir(exist_ok=exist_ok)

        def upload_folder(self, repo_id, folder_path, commit_message):
            assert sorted(os.listdir(folder_path)) == sorted([*FILES, "README.md"])
            if breaks[0]:
                raise type("RemoteProtocolError", (Exception,), {})("peer closed connection")
            shutil.copytree(folder_path, repository, dirs_exist_ok=True)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(ConnectionError, match=r"^the hub cannot be reached \(RemoteProtocolError: peer closed connection\)"):
        push_to_hub(run, "me/it")
    assert os.listdir(tmp_path / "temporary") == []
    assert os.listdir(repository) == []
    breaks[0] = False
    push_to_hub(run, "me/it")
    assert same(from_pretrained(repository), run)
