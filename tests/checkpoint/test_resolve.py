from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from ossia.checkpoint.resolve import resolve_model
from ossia.config import ModelConfig
from ossia.errors import CheckpointError

Make = Callable[..., Path]
NAME = "someone/tiny-oss"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and no network."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def put_into_cache(cache: Path, directory: Path) -> Path:
    """Store a checkpoint as huggingface_hub does; the snapshot's directory."""
    repository = cache / f"models--{NAME.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(directory, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_a_directory_is_named_after_itself(make_checkpoint: Make, tiny: ModelConfig) -> None:
    directory = make_checkpoint("my-model")
    source = resolve_model(str(directory))
    assert (source.path, source.name, source.layout) == (directory, "my-model", "hf")
    assert source.config == tiny


def test_the_original_layout_is_recognised(make_checkpoint: Make, tiny: ModelConfig) -> None:
    source = resolve_model(str(make_checkpoint(layout="original")))
    assert source.layout == "original"
    assert source.config == tiny
    plain = make_checkpoint("plain", layout="original", expert_dtype="bfloat16")
    assert resolve_model(str(plain)).config.expert_format == "bf16"


def test_a_repository_with_both_layouts_gives_the_hugging_face_files(
    make_checkpoint: Make,
) -> None:
    directory = make_checkpoint("both")
    make_checkpoint("both/original", layout="original")
    assert resolve_model(str(directory)).layout == "hf"
    for file in directory.glob("*.safetensors"):
        file.unlink()
    source = resolve_model(str(directory))
    assert (source.path, source.name) == (directory / "original", "both")
    assert source.layout == "original"
    assert resolve_model(str(directory / "original")).name == "both"


def test_a_complete_copy_in_the_cache_needs_no_network(
    make_checkpoint: Make, hub_cache: Path
) -> None:
    snapshot = put_into_cache(hub_cache, make_checkpoint(shard_bytes=50_000))
    source = resolve_model(NAME)
    assert (source.path, source.name, source.layout) == (snapshot, NAME, "hf")


@pytest.mark.parametrize("missing", ["config.json", "model-00002-of-*.safetensors"])
def test_an_incomplete_copy_in_the_cache_without_network_says_what_to_do(
    make_checkpoint: Make, hub_cache: Path, missing: str
) -> None:
    snapshot = put_into_cache(hub_cache, make_checkpoint(shard_bytes=50_000))
    next(snapshot.glob(missing)).unlink()
    with pytest.raises(CheckpointError) as caught:
        resolve_model(NAME)
    assert f"`hf download {NAME} --exclude 'original/*' 'metal/*' --local-dir tiny-oss`" in (
        caught.value.message
    )
    assert "`ossia serve demo`" in caught.value.message


class FakeHub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as a download needs, serving the files of a directory."""

    directory: Path
    asked: list[str]
    status = 200
    error = ""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.status != 200:
            self.reply(self.status, b"{}", {"X-Error-Code": self.error})
        elif "/resolve/" in self.path:
            name = self.path.partition(f"/resolve/{COMMIT}/")[2]
            self.asked.append(name)
            content = (self.directory / name).read_bytes()
            self.reply(200, content, {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})
        else:
            names = sorted(p.relative_to(self.directory) for p in self.directory.rglob("*.*"))
            siblings = [{"rfilename": str(name)} for name in names]
            info = {"id": NAME, "sha": COMMIT, "private": False, "siblings": siblings}
            if "/tree/" in self.path:
                info = [  # type: ignore[assignment]
                    {
                        "type": "file",
                        "path": str(name),
                        "size": (self.directory / name).stat().st_size,
                        "oid": "0" * 40,
                    }
                    for name in names
                ]
            self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def fake_hub(
    hub_cache: Path, make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[FakeHub]]:
    directory = make_checkpoint("repository", shard_bytes=50_000)
    (directory / "original").mkdir()
    (directory / "original" / "model.safetensors").touch()
    (directory / "README.md").touch()
    handler = type("Handler", (FakeHub,), {"directory": directory, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint, raising=False)
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_name_is_downloaded_without_the_files_that_are_not_needed(
    fake_hub: type[FakeHub], tiny: ModelConfig
) -> None:
    told: list[str] = []
    source = resolve_model(NAME, progress=told.append)
    assert source.name == NAME
    assert source.config == tiny
    assert source.path is not None
    names = {p.name for p in source.path.iterdir()}
    assert names == {p.name for p in fake_hub.directory.iterdir()} - {"original", "README.md"}
    assert told == [f"Downloading {NAME} from the Hugging Face hub"]
    asked = len(fake_hub.asked)
    assert resolve_model(NAME).path == source.path
    assert len(fake_hub.asked) == asked


def test_an_interrupted_download_is_completed(fake_hub: type[FakeHub]) -> None:
    path = resolve_model(NAME).path
    assert path is not None
    shard = next(path.glob("model-00002-of-*.safetensors"))
    shard.unlink()
    assert resolve_model(NAME).path == path
    assert shard.is_file()


def test_only_the_geometry_is_downloaded_for_random_weights(fake_hub: type[FakeHub]) -> None:
    source = resolve_model(NAME, load_format="dummy")
    assert source.layout == "dummy"
    assert set(fake_hub.asked) == {"config.json"}


def test_a_name_that_the_hub_does_not_know_is_refused(fake_hub: type[FakeHub]) -> None:
    fake_hub.status, fake_hub.error = 404, "RepoNotFound"
    with pytest.raises(CheckpointError, match=r"neither a directory here nor a model on the Hugg"):
        resolve_model(NAME)


def test_a_gated_model_says_where_to_ask(fake_hub: type[FakeHub]) -> None:
    fake_hub.status, fake_hub.error = 403, "GatedRepo"
    with pytest.raises(CheckpointError, match=r"is gated: accept its terms on the Hugging Face"):
        resolve_model(NAME)


def test_a_hub_that_fails_is_named(fake_hub: type[FakeHub]) -> None:
    fake_hub.status = 418
    with pytest.raises(CheckpointError, match=r"answered with status 418 for someone/tiny-oss: "):
        resolve_model(NAME)


def test_a_hub_model_without_safetensors_is_refused(fake_hub: type[FakeHub]) -> None:
    for file in fake_hub.directory.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"has no model\*\.safetensors on the Hugging"):
        resolve_model(NAME)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", "There is no model 'nope': use demo, the directory of a checkpoint, or a hub"),
        ("", "There is no model '': use demo"),
        ("/no/such/place", "/no/such/place does not exist: use demo, the directory of a"),
        ("./nope", "./nope does not exist"),
        ("~/no-such-place", "~/no-such-place does not exist"),
        ("a/b/c", "a/b/c does not exist"),
        ("a" * 300, f"{'a' * 300} cannot be read: File name too long."),
        ("gpt-oss-20b", "gpt-oss-20b is called openai/gpt-oss-20b; for random weights add"),
    ],
)
def test_a_name_that_is_nothing_is_one_sentence(name: str, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve_model(name)
    assert caught.value.message.startswith(message)


def test_a_file_instead_of_a_directory_is_refused(make_checkpoint: Make) -> None:
    file = make_checkpoint() / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"is a file: give the directory that holds config"):
        resolve_model(str(file))


def test_a_directory_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json: give the directory of"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"config\.json is not valid JSON"),
        ("[]", r"config\.json is not the configuration of a model"),
        ("{}", r"config\.json lacks or misstates a field: 'vocab_size'"),
        ('{"architectures": ["LlamaForCausalLM"]}', "describes LlamaForCausalLM; Ossia serves"),
        ('{"quantization_config": {"quant_method": "awq"}}', "asks for quantization 'awq'"),
    ],
)
def test_a_configuration_at_fault_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve_model(str(tmp_path))
    assert str(tmp_path / "config.json") in caught.value.message


# Random weights need a geometry only.


@pytest.mark.parametrize("name", ["gpt-oss-20b", "openai/gpt-oss-20b"])
def test_known_geometries_need_no_files(name: str) -> None:
    source = resolve_model(name, load_format="dummy")
    assert (source.path, source.name, source.layout) == (None, name, "dummy")
    assert source.config == ModelConfig()


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_a_configuration_by_itself_is_a_geometry(
    make_checkpoint: Make, tiny: ModelConfig, layout: str
) -> None:
    directory = make_checkpoint("mine", layout=layout)
    (directory / "model.safetensors").unlink()
    for name in (directory, directory / "config.json"):
        source = resolve_model(str(name), load_format="dummy")
        assert (source.path, source.name, source.layout) == (None, "mine", "dummy")
        assert source.config == tiny


def test_what_is_no_geometry_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no geometry 'nope': use gpt-oss-20b, gpt"):
        resolve_model("nope", load_format="dummy")
    with pytest.raises(CheckpointError, match=r"has no config\.json to take a geometry from"):
        resolve_model(str(tmp_path), load_format="dummy")
