"""Command line: ``python -m perceive score --bundle DIR [--input F] [--output F] ...``"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="perceive", description="Answer reflections with a bundle.")
    commands = parser.add_subparsers(dest="command", required=True)
    score = commands.add_parser("score", help="answer the records of a file or a pipe")
    add = score.add_argument
    add("--bundle", type=Path, required=True, help="folder of the bundle, e.g. results/bundle")
    add("--input", type=Path, help="JSONL, CSV, TSV or Parquet; default: JSON lines from the standard input")
    add("--output", type=Path, help="file to write; default: JSON lines to the standard output")
    add("--format", choices=("jsonl", "parquet"), help="of the output; default: by its suffix, else jsonl")
    add("--history", type=Path, help="SQLite file of what was scored before; kept up to date")
    add("--resume", action="store_true", help="go on with what an interrupted run left beside the output")
    add("--precision", choices=("fp32", "fp16", "int8"), help="default: the bundle's own")
    add("--device", default="AUTO", help="AUTO (GPU, NPU, CPU: the first there is) or a device of OpenVINO's")
    add("--threads", type=int, help="CPU threads; default: all")
    add("--column", action="append", default=[], metavar="FIELD=NAME", help="name of a field's column")
    add("--quiet", action="store_true", help="no progress")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status."""
    parser = _arguments()
    chosen = parser.parse_args(arguments)
    columns = dict(pair.split("=", 1) if "=" in pair else (pair, "") for pair in chosen.column)
    if not all(columns.values()):
        parser.error("--column takes FIELD=NAME, e.g. --column text=Tweet")
    form = chosen.format
    if form is None:
        form = "parquet" if chosen.output is not None and chosen.output.suffix == ".parquet" else "jsonl"
    if chosen.output is None and (form == "parquet" or chosen.resume):
        parser.error("Parquet and --resume need an --output")

    # Not before the arguments are known to be right: OpenVINO takes a moment to load.
    from perceive.corpus.records import CorpusError
    from perceive.serving.bundle import Bundle, BundleError
    from perceive.serving.history import HistoryError
    from perceive.serving.scorer import Perceiver
    from perceive.serving.stream import Progress, StreamError, read_records, score_file, score_pipe

    progress = Progress(chosen.quiet)
    try:
        bundle = Bundle.open(chosen.bundle, chosen.precision)
        options = {"device": chosen.device, "threads": chosen.threads}
        limit = int(bundle.manifest["input"]["limits"]["max_text_chars"])
        records = read_records(chosen.input, columns, limit)
        if chosen.output is None:
            scorer = Perceiver(bundle, history=chosen.history, **options)
            score_pipe(scorer, records, sys.stdout.buffer, progress)
        else:
            source: dict[str, Any] = {"input": None, "columns": columns}
            if chosen.input is not None and chosen.input.exists():
                source["input"] = [str(chosen.input.resolve()), chosen.input.stat().st_size]
            score_file(
                lambda beside: Perceiver(bundle, history=chosen.history or beside, **options),
                bundle,
                records,
                chosen.output,
                source=source,
                form=form,
                resume=chosen.resume,
                progress=progress,
            )
    except (BundleError, HistoryError, StreamError, CorpusError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    if not chosen.quiet:
        print(progress.summary(), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
