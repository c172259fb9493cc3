"""The paper's FLOP figures beside those of this project, for the README."""

from __future__ import annotations

from seats_cli.cost.paper import PaperRow, paper_table


def paper_markdown() -> str:
    """One row for each model and budget, in the paper's unit: 1e12 multiply-adds.

    64 video grids of 132 tokens, 128 s of sound and 120 text tokens; LLM prefill alone.
    """
    lines = ["| model | tokens kept | paper | seats | difference |", "|---|---:|---:|---:|---:|"]
    return "\n".join(lines + [_line(row) for row in paper_table()])


def _line(row: PaperRow) -> str:
    return (
        f"| {row.model} | {row.retained} | {row.published_tera:.1f} | {row.computed_tera:.2f} "
        f"| {100 * row.difference:+.1f} % |"
    )
