"""What a checkpoint folder may and may not make the program do."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seats_cli.errors import ModelError
from seats_cli.models import load_model
from tests.models.checkpoints import write_checkpoint

ROOT = Path(__file__).parents[2]

EVIL = """
from pathlib import Path
Path(__file__).with_name("was_run").touch()
Path("{marker}").touch()
class Evil: pass
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path, "qwen2_5_omni")
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_code_in_the_folder_is_never_run(checkpoint: Path, tmp_path_factory) -> None:
    marker = tmp_path_factory.mktemp("marker") / "was_run"
    (checkpoint / "evil.py").write_text(EVIL.format(marker=marker))
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        names = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor")
        names += ("AutoFeatureExtractor", "AutoVideoProcessor")
        auto_map: dict[str, object] = dict.fromkeys(names, "evil.Evil")
        auto_map["AutoTokenizer"] = ["evil.Evil", None]
        edit(checkpoint / name, auto_map=auto_map)
    assert load_model(str(checkpoint), device="cpu").facts.family == "qwen2_5_omni"
    # A type that only the folder's own code knows is refused, without a question on the terminal.
    edit(checkpoint / "config.json", model_type="evil_omni")
    with pytest.raises(ModelError):
        load_model(str(checkpoint), device="cpu")
    edit(checkpoint / "config.json", model_type="qwen2_5_omni")
    edit(checkpoint / "tokenizer_config.json", tokenizer_class="EvilTokenizer")
    with contextlib.suppress(ModelError):
        load_model(str(checkpoint), device="cpu")
    assert not marker.exists()
    assert not list(checkpoint.glob("**/was_run"))


def test_pickled_weights_are_refused(checkpoint: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (checkpoint / "was_run",))

    for path in checkpoint.glob("*.safetensors*"):
        path.unlink()
    torch.save({"lm_head.weight": Bomb()}, checkpoint / "pytorch_model.bin")
    with pytest.raises(ModelError) as caught:
        load_model(str(checkpoint), device="cpu")
    assert "safetensors" in str(caught.value)
    assert not (checkpoint / "was_run").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\x00\xff", '{"model_type": 7}'])
def test_broken_descriptions(checkpoint: Path, name: str, text: str) -> None:
    (checkpoint / name).write_text(text)
    with pytest.raises(ModelError) as caught:
        load_model(str(checkpoint), device="cpu")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["thinker_config"]["text_config"]["intermediate_size"] *= 2
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="other shapes than its config"):
        load_model(str(checkpoint), device="cpu")


def test_without_a_network(checkpoint: Path, tmp_path: Path) -> None:
    """HF_HUB_OFFLINE: a folder loads, a hub model that is not cached is refused at once."""
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise SystemExit('the network was used')\n"
        "socket.socket.connect = refuse\n"
        "from seats_cli.models import load_model\n"
        "from seats_cli.errors import ModelError\n"
        f"load_model({str(checkpoint)!r}, device='cpu')\n"
        "try: load_model('Qwen/Qwen2.5-Omni-3B')\n"
        "except ModelError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "hf download" in done.stdout
