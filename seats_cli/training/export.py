"""Write a trained model in the layout of the hub."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch

from seats_cli.training.build import build_config, build_model, build_processor, build_tokenizer
from seats_cli.training.forward import Thinker


def export(model: Thinker, processor: Any, folder: Path) -> None:
    """Save fp16 weights, configuration, processor and tokenizer into `folder`."""
    half = copy.deepcopy(model).half().eval()
    half.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written for the owner only


def export_state(state_file: Path, folder: Path) -> None:
    """Export the weights of a training run's `state.pt`, finished or not."""
    processor = build_processor(build_tokenizer())
    model = build_model(build_config(processor.tokenizer))
    model.load_state_dict(torch.load(state_file, weights_only=True)["model"])
    export(model, processor, folder)


def main() -> None:
    """Command line: `python -m seats_cli.training.export runs/tiny/state.pt FOLDER`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("state", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    export_state(options.state, options.folder)


if __name__ == "__main__":
    main()
