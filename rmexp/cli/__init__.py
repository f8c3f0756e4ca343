"""The command line: one small function per command, by what it is about."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from rmexp.cli import adapters, models, raters, studies
from rmexp.cli.composed import fail
from rmexp.cli.help import asked_help
from rmexp.cli.options import OptionParser
from rmexp.errors import UserError

USAGE = """\
usage: rmexp COMMAND ...

  train      one trial; with -m and ranges, a study     rmexp train gamma=0.5 r=3
  sweep      a named study                              rmexp sweep sweep=starter
  best       the best trial of a study                  rmexp best STUDY [--json]
  rerun      a stored trial again                       rmexp rerun STUDY [--trial N]
  status     where a study stands                       rmexp status STUDY [--watch]
  report     one HTML file about a study                rmexp report STUDY [--out FILE]
  confirm    the top trials on fresh seeds              rmexp confirm STUDY [--top K] [--seeds M]
  dashboard  W&B workspace and report of a study        rmexp dashboard STUDY [--dry-run]
  sync       upload a study's offline W&B runs          rmexp sync STUDY
  ui         a read-only page of all studies            rmexp ui [--port 8080]
  studies    the studies below the output folder        rmexp studies
  evaluate   a reward model on judged responses         rmexp evaluate model.path=FOLDER
  compare    models or trials, row by row               rmexp compare A B suite=hh
  score      a reward for each row of a file            rmexp score model.path=DIR in=FILE out=FILE
  export     a model as one folder to hand on           rmexp export model.path=DIR out=FOLDER
  rate       fill the rating store                      rmexp rate rules=safety100
  label      a file of labelled pairs for any trainer   rmexp label out=labels.parquet
  rules      what is wrong with a rule set              rmexp rules audit rules=core20
  rater      teach a rater, or check one                rmexp rater check labels=FILE
  adapter    choose rules before rating                 rmexp adapter train out=FOLDER
  prepare    gather what a machine offline needs        rmexp prepare FOLDER [KEY=VALUE ...]
  ratings    the rating store                           rmexp ratings stats
  doctor     what is installed, and what is missing     rmexp doctor

COMMAND --help tells more. train, sweep, prepare, evaluate, compare, score, export, rate, label,
rules, rater and adapter take KEY=VALUE, --cfg job, --config-dir DIR (Hydra's); the others plain
options.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; user errors are one line and exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    if words[0] == "--version":
        import rmexp

        print(f"rmexp {rmexp.__version__}")
        return
    if words[0] not in COMMANDS:
        fail(f"no command '{words[0]}'; use one of {', '.join(COMMANDS)}")
    try:
        help_text = asked_help(words)
        if help_text is None:
            COMMANDS[words[0]](words[1:])
        else:
            print(help_text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has enough, as head has; Python would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print(
            "\nrmexp: interrupted; the same command goes on where this one stopped", file=sys.stderr
        )
        sys.exit(130)


def doctor(words: list[str]) -> None:
    """What is installed, and what is missing."""
    OptionParser("doctor", "what is installed, and what is missing").parse_args(words)
    from rmexp.doctor import report

    sys.exit(report())


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": models.train,
    "sweep": models.sweep,
    "evaluate": models.evaluate,
    "compare": models.compare,
    "score": models.score,
    "export": models.export,
    "rate": raters.rate,
    "label": raters.label,
    "rules": raters.rules,
    "rater": raters.rater,
    "adapter": adapters.adapter,
    "prepare": models.prepare,
    "ratings": raters.ratings,
    "best": studies.best,
    "rerun": studies.rerun,
    "status": studies.status,
    "report": studies.report,
    "confirm": studies.confirm,
    "dashboard": studies.dashboard,
    "sync": studies.sync,
    "ui": studies.ui,
    "studies": studies.studies,
    "doctor": doctor,
}
