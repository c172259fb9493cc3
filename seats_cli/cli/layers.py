"""The result of `seats eval --find-layers`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seats_cli.cli.console import Talk, print_document, stdout_is_unicode
from seats_cli.cli.output import print_report

if TYPE_CHECKING:
    from seats_cli.cli.evaluation import Outcome

CONFIG = "layers.toml"


def show_layers(outcome: Outcome, form: str, folder: Path, talk: Talk) -> None:
    """The curve and what it recommends, on stdout and in the folder.

    Parameters
    ----------
    outcome : Outcome
    form : {"table", "json", "csv", "md"}
    folder : Path
        Gets the results, and "layers.toml" for `--config`.
    talk : Talk
    """
    from seats_cli.evaluate.layers import layer_curve, recommend
    from seats_cli.report import layers_table
    from seats_cli.report.document import dump_document
    from seats_cli.tables import write_table

    curve = layer_curve(outcome.records, outcome.num_layers)
    plan = recommend(curve)
    document = layers_table.layers_document(curve, plan)
    texts = {
        "layers.json": dump_document(document),
        "layers.csv": layers_table.layers_csv(curve),
        "layers.md": layers_table.layers_markdown(curve, plan),
    }
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    write_table(folder / CONFIG, plan.as_dict())
    talk.notice(f"Wrote {', '.join(texts)} and {CONFIG} (for --config) in {folder}.")
    if form == "table":
        print_report(layers_table.layers_report(curve, plan))
    elif form == "json":
        print_document(dump_document(document, ascii_only=not stdout_is_unicode()))
    else:
        print_document(texts[f"layers.{form}"])
