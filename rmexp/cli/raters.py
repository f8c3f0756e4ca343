"""Commands about ratings and labels: rate, label, rules, rater, ratings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rmexp.cli.composed import run_composed
from rmexp.cli.options import OptionParser
from rmexp.errors import UserError

_SHOWN_UNRATED = 10

if TYPE_CHECKING:
    from omegaconf import DictConfig


def rate(words: list[str]) -> None:
    """Fill the rating store, so that trials rate nothing."""
    run_composed("rate", ["dry_run=true" if w == "--dry-run" else w for w in words], _rate)


def label(words: list[str]) -> None:
    """Label pairs by their critical rules, into a file."""
    run_composed("label", words, _label)


def rules(words: list[str]) -> None:
    """What is wrong with a rule set."""
    if words[:1] != ["audit"]:
        raise UserError("rules: use 'rmexp rules audit [KEY=VALUE ...]'")
    run_composed("audit", words[1:], _audit)


def rater(words: list[str]) -> None:
    """Teach a rater from labelled examples, or check one against them."""
    tasks = {"fit": _rater_fit, "check": _rater_check}
    if words[:1] not in ([name] for name in tasks):
        raise UserError("rater: use 'rmexp rater fit labels=FILE' or 'rmexp rater check ...'")
    run_composed("rater", words[1:], tasks[words[0]])


def ratings(words: list[str]) -> None:
    """Count, export, import or prune the rating store."""
    parser = OptionParser("ratings", "the rating store")
    parser.add_argument("action", choices=["stats", "export", "import", "prune"])
    parser.add_argument("file", nargs="?", help="Parquet file (export, import)")
    parser.add_argument("--cache-dir", help="instead of RMEXP_CACHE_DIR or ~/.cache/rmexp")
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="RATER",
        help="start of a rater's fingerprint to keep (prune); several times",
    )
    parser.add_argument("--all", action="store_true", help="keep no rater (prune)")
    options = parser.parse_args(words)
    if (options.action in ("export", "import")) != (options.file is not None):
        raise UserError("ratings: export and import take a FILE, stats and prune none")
    if options.action == "prune" and bool(options.keep) == options.all:
        raise UserError(
            "ratings prune: give --keep RATER (see rmexp ratings stats), or --all to delete all"
        )
    from rmexp.rating import maintenance
    from rmexp.rating.store import RatingStore
    from rmexp.trial.ratings import default_cache_dir

    folder = Path(options.cache_dir or default_cache_dir()) / "ratings"
    if options.action != "import" and not folder.is_dir():
        raise UserError(f"ratings: no rating store at {folder}")
    with RatingStore(folder) as store:
        if options.action == "export":
            print(f"{maintenance.export_ratings(store, Path(options.file))} ratings exported")
        elif options.action == "import":
            print(f"{maintenance.import_ratings(store, Path(options.file))} ratings read")
        elif options.action == "prune":
            deleted = maintenance.prune_ratings(
                store, maintenance.raters_named(store, options.keep)
            )
            print(f"{deleted} ratings deleted")
        else:
            stats = maintenance.store_stats(store)
            print(f"{stats.path}: {stats.ratings} ratings, {stats.bytes} bytes")
            for held in stats.raters:
                print(
                    f"{held.rater.kind} {held.rater.short}: {held.ratings} ratings of "
                    f"{held.responses} responses by {held.rules} rules, "
                    f"mean {held.mean:+.3f}, deviation {held.deviation:.3f}"
                )


def _label(config: DictConfig) -> None:
    from rmexp.cli.progress import rating_progress
    from rmexp.sweep.launch import plain_config
    from rmexp.trial.label import LabelConfig, label_file
    from rmexp.trial.schema import checked

    options = checked(LabelConfig, plain_config(config))
    with rating_progress() as progress:
        report, labelled = label_file(options, progress)
    print(report)
    for name, value in labelled.metrics().items():
        print(f"{name:42s} {value:.6g}")
    print(f"labels: {options.out}")


def _audit(config: DictConfig) -> None:
    from rmexp.cli.progress import rating_progress
    from rmexp.sweep.launch import plain_config
    from rmexp.trial.audit import AuditConfig, audit
    from rmexp.trial.schema import checked

    options = checked(AuditConfig, plain_config(config))
    with rating_progress() as progress:
        report, audited, result = audit(options, progress)

    from rmexp.sweep.console import console
    from rmexp.views.audit import categories_table, findings, picture, rules_table

    out = console()
    out.print(rules_table(result))
    out.print(categories_table(result))
    out.print(report, *findings(result), sep="\n", markup=False)
    if options.picture is not None:
        Path(options.picture).write_text(picture(result, audited), encoding="utf-8")
    for path in (options.out, options.picture):
        if path is not None:
            out.print(f"written: {path}", markup=False)


def _rate(config: DictConfig) -> None:
    from rmexp.sweep.launch import plain_config
    from rmexp.trial.ratings import RateConfig, dry_run, fill_store
    from rmexp.trial.schema import checked

    options = checked(RateConfig, plain_config(config))
    if options.dry_run:
        print(dry_run(options))
        return

    from rmexp.cli.progress import Steps

    with Steps() as steps:
        steps("rate")
        filled = fill_store(options, steps.advance)
    print(filled.read)
    ratings = filled.ratings
    print(f"rated {ratings.rated}, reused {ratings.reused}, could not be rated {ratings.failed}")
    if filled.report is not None:
        print(filled.report)
    for row in filled.unrated[:_SHOWN_UNRATED]:
        print("not rated: pair {pair}, response {response}, rule {rule}: {reason}".format(**row))
    if options.unrated is not None:
        print(f"all {len(filled.unrated)} that could not be rated: {options.unrated}")
    elif len(filled.unrated) > _SHOWN_UNRATED:
        rest = len(filled.unrated) - _SHOWN_UNRATED
        print(f"and {rest} more (unrated=FILE writes them all); the same command asks again")


def _rater_fit(config: DictConfig) -> None:
    from rmexp.sweep.launch import plain_config
    from rmexp.trial.ratings import RaterCommandConfig, fit
    from rmexp.trial.schema import checked

    options = checked(RaterCommandConfig, plain_config(config))
    probe = fit(options)
    for head in probe.heads:
        print(
            f"{head.rule_id:42s} {head.positives:5d} follow {head.negatives:5d} break "
            f"AUC {head.auc:.3f} calibration error {head.calibration_error:.3f}"
        )
    print(f"probe: {options.out} (use it: rater=probe rater.path={options.out})")


def _rater_check(config: DictConfig) -> None:
    from rmexp.sweep.launch import plain_config
    from rmexp.trial.ratings import RaterCommandConfig, check
    from rmexp.trial.schema import checked

    checks, mean = check(checked(RaterCommandConfig, plain_config(config)))
    for row in checks:
        print(
            f"{row.rule_id:42s} {row.positives:5d} follow {row.negatives:5d} break "
            f"AUC {row.auc:.3f} agreement {row.agreement:.3f} (base {row.base_rate:.3f}) "
            f"calibration error {row.calibration_error:.3f}"
        )
    print(f"mean AUC {mean:.3f}")
