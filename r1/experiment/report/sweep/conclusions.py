"""What a sweep has found in one or two sentences, what to beware of, and the Markdown that is kept beside its file."""

from __future__ import annotations

from collections import Counter

from r1.core.statistics import Estimate
from r1.experiment.report.sweep.analysis import Analysis, Comparison
from r1.experiment.report.sweep.points import Point, shown
from r1.experiment.report.sweep.trials import Compute, budget

FEW = 4  # names in a sentence


def verdict(found: Analysis) -> str:
    """Which point is the best, whether that is more than noise, and what it is against the default."""
    if found.winner is None:
        return f"No run has finished with {found.asked.metric}, so there is no best point."
    return f"{_winner(found, found.winner)} {_default(found, found.winner)}"


def _winner(found: Analysis, winner: Point) -> str:
    rivals, tied = len(found.comparisons), [one.point for one in found.tied]
    best = f"{found.name(winner.values)} has the {_best(found)} {found.asked.metric}, {text(winner.figure)}"
    if not rivals:
        return f"{best}; there is no other point to compare it with."
    by = _basis(found)
    if not tied:
        others = "the other point" if rivals == 1 else f"all {rivals} other points"
        return f"{best}, ahead of {others} ({by})."
    if len(tied) == rivals:
        others = "the other point" if rivals == 1 else f"any of the {rivals} other points"
        return f"No winner: {best}, but it cannot be told apart from {others} ({by})."
    names = f": {'; '.join(found.name(point.values) for point in tied)}" if len(tied) <= FEW else ""
    return f"No clear winner: {best}, but {len(tied)} of {rivals} others cannot be told apart from it{names} ({by})."


def _best(found: Analysis) -> str:
    order = "highest" if found.asked.maximize else "lowest"
    return f"{order} mean" if found.several_seeds else order


def _basis(found: Analysis) -> str:
    bases = Counter(one.difference.basis for one in found.comparisons if one.difference)
    basis = bases.most_common(1)[0][0] if bases else "no intervals"
    return f"95 %, {basis}, corrected for {_count(len(found.comparisons), 'comparison')}"


def _default(found: Analysis, winner: Point) -> str:
    if found.default is None:
        return "There is no default to compare with: conf has no value of its own for every parameter."
    name = found.name(found.default)
    if found.default == winner.values:
        return "It is the default."
    if found.compared is None:
        there = any(point.values == found.default for point in found.points)
        return f"The default ({name}) {'has not finished under enough seeds' if there else 'is not among the points'}."
    return f"Against the default ({name}, {text(found.compared.point.figure)}) it is {versus_default(found.compared)}."


def versus_default(one: Comparison) -> str:
    """How far the winner is from a point: ``+0.021 (-0.004 to 0.046, paired over 5 seeds), within noise``."""
    if one.difference is None:
        return "not measured how far that is from noise"
    value, half = 0.0 - one.difference.value, one.difference.half
    sure = "more than noise" if not one.tied else "within noise"
    if one.tied and abs(value) > half:
        sure = "more than noise for two points, but not for the best that was picked among several"
    return f"{value:+.3f} ({value - half:.3f} to {value + half:.3f}, {one.difference.basis}): {sure}"


def text(figure: Estimate | None) -> str:
    return str(figure) if figure else "-"


def warnings(found: Analysis) -> list[str]:
    """What a reader should know before believing the winner."""
    told = (_noise(found), _picked(found), _seeds(found), _unequal(found), _missing(found), found.asked.problem)
    return [line for line in told if line]


def _noise(found: Analysis) -> str:
    if not found.winner or not found.tied:
        return ""
    tied, rivals = len(found.tied), len(found.comparisons)
    return f"The winner lies within noise: {tied} of the {rivals} other points cannot be told apart from it at 95 %."


def _picked(found: Analysis) -> str:
    if not found.winner or not found.comparisons:
        return ""
    return (
        f"The winner was picked among {len(found.comparisons) + 1} points, so its mean and its lead are optimistic: "
        "run it again under new seeds for a figure without that."
    )


def _seeds(found: Analysis) -> str:
    if not found.winner or found.several_seeds:
        return ""
    return (
        "There is one seed per point, so noise between seeds cannot be told from the parameters' effect: what is said "
        "here rests on the validations' own intervals, which do not hold that noise. Sweep over seed as well."
    )


def _unequal(found: Analysis) -> str:
    """Points whose runs have not used the same compute: the metric compares that too."""
    kind = " or ".join(_budgets(found))
    unit, slack = (
        ("tokens", 1.05) if kind == "tokens" else ("sequences", 1.01)
    )  # a run ends with the step, not the token
    used = [amount for point in found.points if point.by_seed and (amount := getattr(point.compute, unit))]
    if not used or max(used) <= slack * min(used):
        return ""
    kept = f"; the budget keeps the {kind} the same" if kind in ("prompts", "steps") else ""
    return f"The points have not used equal compute: from {min(used):,.0f} to {max(used):,.0f} {unit} in total{kept}."


def _missing(found: Analysis) -> str:
    ends = Counter(trial.ended for trial in found.trials if not trial.counts)
    if not ends:
        return ""
    uneven = len({len(point.by_seed) for point in found.points}) > 1 and found.several_seeds
    what = f"{sum(ends.values())} of {len(found.trials)} runs did not finish and are in no mean"
    return f"{what}, so some points rest on fewer seeds than others." if uneven else f"{what}."


# ---- Markdown ----


def markdown(found: Analysis, title: str, figure: str) -> str:
    """The verdict as it is kept beside the sweep file: question, command, commit, figure, verdict, table."""
    told = found.asked
    head = [f"# {title}", told.question, f"    {told.command}" if told.command else "", facts(found)]
    image = f"![{told.metric} over {', '.join(found.names)}]({figure})" if figure else ""
    notes = "\n".join(f"- {line}" for line in warnings(found))
    parts = [*head, f"**Verdict.** {verdict(found)}", image, notes, table(found)]
    return "\n\n".join(filter(None, parts)) + "\n"


def facts(found: Analysis) -> str:
    """How many points, seeds and runs, the budget, the code and the time."""
    ends = Counter(trial.ended for trial in found.trials)
    runs = ", ".join(f"{count} {end}" for end, count in ends.most_common())
    seeds = sorted({str(trial.seed) for trial in found.trials})
    counted = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" if len(seeds) <= 10 else f"{len(seeds)} seeds"
    kept = f"Budget: {' or '.join(kinds)}. " if (kinds := _budgets(found)) else ""
    walls = sum(trial.compute.wall_s or 0 for trial in found.trials)
    return (
        f"{_count(len(found.points), 'point')} of {', '.join(found.names)}; {counted}; "
        f"{_count(len(found.trials), 'run')}: {runs}, together {walls / 60:.1f} min. {kept}"
        f"{commits(found)} Means over seeds with their 95 % intervals (Student's t)."
    )


def _budgets(found: Analysis) -> list[str]:
    return sorted({kind for trial in found.trials if (kind := budget(trial.run))})


def commits(found: Analysis) -> str:
    """The commits that the runs were made at."""
    held = [trial.run.manifest.get("git") or {} for trial in found.trials]
    names = sorted({str(git.get("commit") or "unknown")[:12] for git in held})
    dirty = " with uncommitted changes" if any(git.get("dirty") for git in held) else ""
    return f"Commit{'s' if len(names) > 1 else ''} {', '.join(names)}{dirty}."


def table(found: Analysis) -> str:
    """The points, the best first."""
    compared = {id(one.point): one for one in found.comparisons}
    head = [*found.names, found.asked.metric, "seeds", "against the best", "sequences", "per step", "tokens", "time"]
    rows = [_row(point, compared.get(id(point)), point is found.winner) for point in found.points]
    return "\n".join(["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]])


def _row(point: Point, one: Comparison | None, is_winner: bool) -> list[str]:
    values = [_cell(shown(value)) for value in point.values.values()]
    return [*values, text(point.figure), f"{len(point.by_seed)}", standing(one, is_winner), *used(point.compute)]


def standing(one: Comparison | None, is_winner: bool) -> str:
    """A point's place beside the winner: its difference, and whether that is within noise."""
    if is_winner:
        return "best"
    if one is None:
        return "-"
    mark = " (tied)" if one.tied else ""
    return f"{one.difference.value:+.3f}{mark}" if one.difference else mark.strip()


def used(compute: Compute) -> list[str]:
    """Sequences in total and per step, tokens, and time, in words."""
    amounts = [
        f"{value:,.0f}" if value is not None else "-" for value in (compute.sequences, compute.per_step, compute.tokens)
    ]
    return [*amounts, f"{compute.wall_s:.0f} s" if compute.wall_s is not None else "-"]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
