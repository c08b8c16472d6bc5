"""The conclusion of a sweep in one or two sentences, its caveats, and the Markdown file about it."""

from __future__ import annotations

from collections import Counter

from r1.core.statistics import Estimate
from r1.experiment.report.sweep.analysis import Analysis, Comparison
from r1.experiment.report.sweep.points import TrialGroup, value_text
from r1.experiment.report.sweep.trials import Compute, budget

FEW = 4  # names in a sentence


def conclusion(analysis: Analysis) -> str:
    """The best point, whether its lead is more than noise, and its difference from the default."""
    if analysis.winner is None:
        return f"No run has finished with {analysis.info.metric}, so there is no best point."
    return f"{_winner(analysis, analysis.winner)} {_default(analysis, analysis.winner)}"


def _winner(analysis: Analysis, winner: TrialGroup) -> str:
    rivals, tied = len(analysis.comparisons), [comparison.point for comparison in analysis.tied]
    metric = f"{_best(analysis)} {analysis.info.metric}"
    best = f"{analysis.name(winner.values)} has the {metric}, {estimate_text(winner.estimate)}"
    if not rivals:
        return f"{best}; there is no other point to compare it with."
    by = _basis(analysis)
    if not tied:
        others = "the other point" if rivals == 1 else f"all {rivals} other points"
        return f"{best}, ahead of {others} ({by})."
    if len(tied) == rivals:
        others = "the other point" if rivals == 1 else f"any of the {rivals} other points"
        return f"No winner: {best}, but it cannot be told apart from {others} ({by})."
    names = f": {'; '.join(analysis.name(point.values) for point in tied)}" if len(tied) <= FEW else ""
    return f"No clear winner: {best}, but {len(tied)} of {rivals} others cannot be told apart from it{names} ({by})."


def _best(analysis: Analysis) -> str:
    order = "highest" if analysis.info.maximize else "lowest"
    return f"{order} mean" if analysis.several_seeds else order


def _basis(analysis: Analysis) -> str:
    bases = Counter(comparison.difference.basis for comparison in analysis.comparisons if comparison.difference)
    basis = bases.most_common(1)[0][0] if bases else "no intervals"
    return f"95 %, {basis}, corrected for {_count(len(analysis.comparisons), 'comparison')}"


def _default(analysis: Analysis, winner: TrialGroup) -> str:
    if analysis.default is None:
        return "There is no default to compare with: conf has no value of its own for every parameter."
    name = analysis.name(analysis.default)
    if analysis.default == winner.values:
        return "It is the default."
    if analysis.default_comparison is None:
        is_point = any(point.values == analysis.default for point in analysis.points)
        reason = "has not finished under enough seeds" if is_point else "is not among the points"
        return f"The default ({name}) {reason}."
    comparison = analysis.default_comparison
    return (
        f"Against the default ({name}, {estimate_text(comparison.point.estimate)}) it is {versus_default(comparison)}."
    )


def versus_default(comparison: Comparison) -> str:
    """The winner less a point: ``+0.021 (-0.004 to 0.046, paired over 5 seeds): within noise``."""
    if comparison.difference is None:
        return "not measured how far that is from noise"
    value, half = 0.0 - comparison.difference.value, comparison.difference.half_width
    certainty = "more than noise" if not comparison.tied else "within noise"
    if comparison.tied and abs(value) > half:
        certainty = "more than noise for two points, but not for the best that was picked among several"
    return f"{value:+.3f} ({value - half:.3f} to {value + half:.3f}, {comparison.difference.basis}): {certainty}"


def estimate_text(estimate: Estimate | None) -> str:
    return str(estimate) if estimate else "-"


def warnings(analysis: Analysis) -> list[str]:
    """Caveats about the winner."""
    checks = (_winner_within_noise, _selection_bias, _one_seed, _unequal_compute, _unfinished_runs)
    lines = [*(check(analysis) for check in checks), analysis.info.problem]
    return [line for line in lines if line]


def _winner_within_noise(analysis: Analysis) -> str:
    if not analysis.winner or not analysis.tied:
        return ""
    tied, rivals = len(analysis.tied), len(analysis.comparisons)
    return f"The winner lies within noise: {tied} of the {rivals} other points cannot be told apart from it at 95 %."


def _selection_bias(analysis: Analysis) -> str:
    if not analysis.winner or not analysis.comparisons:
        return ""
    return (
        f"The winner was picked among {len(analysis.comparisons) + 1} points, so its mean and its lead are optimistic: "
        "run it again under new seeds for an unbiased estimate."
    )


def _one_seed(analysis: Analysis) -> str:
    if not analysis.winner or analysis.several_seeds:
        return ""
    return (
        "There is one seed per point, so noise between seeds cannot be told from the parameters' effect: the "
        "conclusion rests on the validations' own intervals, which leave that noise out. Sweep over seed as well."
    )


def _unequal_compute(analysis: Analysis) -> str:
    """Points whose runs have not used the same compute: the metric compares that too."""
    kind = " or ".join(_budgets(analysis))
    # a run ends with a step, not with a token, so a token budget is exceeded by part of a step
    unit, slack = ("tokens", 1.05) if kind == "tokens" else ("sequences", 1.01)
    used = [amount for point in analysis.points if point.by_seed and (amount := getattr(point.compute, unit))]
    if not used or max(used) <= slack * min(used):
        return ""
    constant = f"; the budget keeps the {kind} the same" if kind in ("prompts", "steps") else ""
    return (
        f"The points have not used equal compute: from {min(used):,.0f} to {max(used):,.0f} {unit} in total{constant}."
    )


def _unfinished_runs(analysis: Analysis) -> str:
    ends = Counter(trial.outcome for trial in analysis.trials if not trial.is_counted)
    if not ends:
        return ""
    uneven = len({len(point.by_seed) for point in analysis.points}) > 1 and analysis.several_seeds
    line = f"{sum(ends.values())} of {len(analysis.trials)} runs did not finish and are in no mean"
    return f"{line}, so some points rest on fewer seeds than others." if uneven else f"{line}."


# ---- Markdown ----


def markdown(analysis: Analysis, title: str, figure: str) -> str:
    """The Markdown file stored next to the sweep file: question, command, commit, conclusion, image, table.

    Args:
        figure: path of the image; empty: none.
    """
    info = analysis.info
    head = [f"# {title}", info.question, f"    {info.command}" if info.command else "", scope(analysis)]
    image = f"![{info.metric} over {', '.join(analysis.names)}]({figure})" if figure else ""
    notes = "\n".join(f"- {line}" for line in warnings(analysis))
    parts = [*head, f"**Conclusion.** {conclusion(analysis)}", image, notes, table(analysis)]
    return "\n\n".join(filter(None, parts)) + "\n"


def scope(analysis: Analysis) -> str:
    """How many points, seeds and runs, the budget, the code and the time."""
    ends = Counter(trial.outcome for trial in analysis.trials)
    runs = ", ".join(f"{count} {end}" for end, count in ends.most_common())
    seeds = sorted({str(trial.seed) for trial in analysis.trials})
    counted = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" if len(seeds) <= 10 else f"{len(seeds)} seeds"
    budgets = f"Budget: {' or '.join(kinds)}. " if (kinds := _budgets(analysis)) else ""
    walls = sum(trial.compute.wall_s or 0 for trial in analysis.trials)
    return (
        f"{_count(len(analysis.points), 'point')} of {', '.join(analysis.names)}; {counted}; "
        f"{_count(len(analysis.trials), 'run')}: {runs}, together {walls / 60:.1f} min. {budgets}"
        f"{commits(analysis)} Means over seeds with their 95 % intervals (Student's t)."
    )


def _budgets(analysis: Analysis) -> list[str]:
    return sorted({kind for trial in analysis.trials if (kind := budget(trial.run))})


def commits(analysis: Analysis) -> str:
    """The commits that the runs were made at."""
    states = [trial.run.manifest.get("git") or {} for trial in analysis.trials]
    names = sorted({str(git.get("commit") or "unknown")[:12] for git in states})
    dirty = " with uncommitted changes" if any(git.get("dirty") for git in states) else ""
    return f"Commit{'s' if len(names) > 1 else ''} {', '.join(names)}{dirty}."


def table(analysis: Analysis) -> str:
    """The points, the best first."""
    compared = {id(comparison.point): comparison for comparison in analysis.comparisons}
    columns = ("seeds", "against the best", "sequences", "per step", "tokens", "time")
    head = [*analysis.names, analysis.info.metric, *columns]
    rows = [_row(point, compared.get(id(point)), point is analysis.winner) for point in analysis.points]
    return "\n".join(["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]])


def _row(point: TrialGroup, comparison: Comparison | None, is_winner: bool) -> list[str]:
    values = [_cell(value_text(value)) for value in point.values.values()]
    gap = gap_to_best(comparison, is_winner)
    return [*values, estimate_text(point.estimate), str(len(point.by_seed)), gap, *compute_cells(point.compute)]


def gap_to_best(comparison: Comparison | None, is_winner: bool) -> str:
    """A point less the winner, and whether the difference is within noise."""
    if is_winner:
        return "best"
    if comparison is None:
        return "-"
    mark = " (tied)" if comparison.tied else ""
    return f"{comparison.difference.value:+.3f}{mark}" if comparison.difference else mark.strip()


def compute_cells(compute: Compute) -> list[str]:
    """Sequences in total and per step, tokens, and time, as text."""
    amounts = [
        f"{value:,.0f}" if value is not None else "-" for value in (compute.sequences, compute.per_step, compute.tokens)
    ]
    return [*amounts, f"{compute.wall_s:.0f} s" if compute.wall_s is not None else "-"]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
