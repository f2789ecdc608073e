"""What the numbers mean: findings with their thresholds stated, and the rows of the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np

if TYPE_CHECKING:
    from foldless.report import Pair

FEW_FOLDS = 0.1
"""Per cent of voxels; published networks without a guard against folds lie between 0.1 and 2."""
CONSISTENT = 0.5
"""Voxels; below half a voxel, going there and back ends on average in the voxel it started from."""
INCONSISTENT = 1.0
"""Voxels; above one, going there and back ends on average in another voxel."""
CLEAR, UNCLEAR = 2.7, 1.5
"""How many times what poses at random say that one must say to be believed, and below which it is not."""
MIRRORED = 1.2
"""What the mirrored moving image may say at most, as a share of what it says as it is."""
RIVAL = 0.8
"""What another pose may say at most, as a share."""
LITTLE = 0.25
"""Share of the smaller field of view that both must show."""

RULES = {
    "forward": "forward differences, determinant < 0",
    "central": "central differences, determinant < 0",
    "any_of_eight": "any of eight one-sided determinants ≤ 0",
    "ten": "any of ten determinants ≤ 0",
}
"""The named rules for folds and what they count, laxest first."""

LEVELS = ("good", "care", "bad")


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict: how good it is ("good", "care", "bad"), what was found, and by which threshold."""

    level: str
    text: str
    threshold: str


def judge(pair: Pair) -> list[Finding]:
    """The verdict on a pair, from its metrics; where folds or inverse consistency are missing there, from its maps."""
    wrong = _finite(pair)
    return ([] if wrong is None else [wrong]) + judge_numbers({**pair.metrics, **_of_maps(pair)})


def judge_numbers(metrics: Mapping[str, Any]) -> list[Finding]:
    """The verdict on a pair of which nothing but its metrics is known."""
    findings = [
        *pose_findings(metrics),
        _proof(metrics),
        _folds(metrics),
        _consistency(metrics),
        _dice(metrics),
        _landmarks(metrics),
        _similarity(metrics),
    ]
    return [finding for finding in findings if finding is not None]


def loses_dice(metrics: Mapping[str, Any]) -> bool:
    """Whether a pair's labels overlap less after registration than before, or their overlap is no number."""
    before, after = _number(metrics.get("dice_before")), _number(metrics.get("dice"))
    return before is not None and after is not None and not after >= before


def goodness(metrics: Mapping[str, Any]) -> tuple[bool, float]:
    """What sorts pairs from worst to best: Dice or, after those that have it, how alike the images are.

    What is not finite is worst.
    """
    dice, unlike = _number(metrics.get("dice")), _number(metrics.get("similarity_after"))
    value = dice if dice is not None else inf if unlike is None else -unlike
    return dice is None, -inf if value != value else value


def level_of(findings: Iterable[Finding]) -> str:
    """The worst level among the findings; "none" where nothing was judged."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="none")


def overall(verdicts: Sequence[Sequence[Finding]]) -> tuple[str, str]:
    """The page's verdict, (level, sentence), over the verdicts of its pairs."""
    levels = [level_of(verdict) for verdict in verdicts]
    judged = [level for level in levels if level != "none"]
    if not judged:
        return "none", "Nothing was judged: there are no numbers"
    worst = max(judged, key=LEVELS.index)
    if len(levels) == 1:
        reason = next((finding.text for finding in verdicts[0] if finding.level == worst), "")
        return worst, "Pass: every check" if worst == "good" else f"{named(worst).capitalize()}: {reason}"
    counts = [f"{levels.count(level)} {word}" for level, word in _COUNTED.items() if level in levels]
    return worst, f"{len(levels)} pairs: " + ", ".join(counts)


_COUNTED = {"good": "passed every check", "care": "to look at", "bad": "failed a check", "none": "not judged"}


def named(level: str) -> str:
    """The word for a level: pass, look or fail."""
    return {"good": "pass", "care": "look", "bad": "fail", "none": "not judged"}[level]


def pose_findings(metrics: Mapping[str, Any]) -> list[Finding]:
    """What the evidence says of the pose that a map ends in; docs/how-to/lay-two-scans-on-each-other.md."""
    pose = metrics.get("pose")
    if not pose:
        return []
    found = [_clear(pose)] if pose["clear"] else []
    if pose["mirrored"] > MIRRORED:
        text = f"The moving image may be mirrored: so it says {pose['mirrored']:.2f} times as much"
        found.append(Finding("bad", text, f"bad: more than {MIRRORED:g} times as much as it is"))
    if pose["runner_up"] > RIVAL:
        text = f"Another pose is nearly as likely: it says {pose['runner_up']:.0%} as much"
        found.append(Finding("care", text, f"tolerable: more than {RIVAL:.0%}"))
    if pose["overlap"] < LITTLE:
        text = f"The images have little in common: {pose['overlap']:.0%} of the smaller field of view"
        found.append(Finding("care", text, f"tolerable: less than {LITTLE:.0%}"))
    return found


def _clear(pose: Mapping[str, Any]) -> Finding:
    level = "good" if pose["clear"] >= CLEAR else "care" if pose["clear"] >= UNCLEAR else "bad"
    words = {
        "good": "The images are laid on each other",
        "care": "It is not clear that the images are laid on each other",
        "bad": "No pose was found that lays the images on each other",
    }[level]
    moved = f"turned by {pose['degrees']:.1f}° and shifted by {pose['shift_mm']:.1f} mm"
    says = f"they say {pose['clear']:.1f} times as much of each other as at poses from all over"
    return Finding(level, f"{words}: {moved} {says}", f"good: {CLEAR:g} times and more; bad: below {UNCLEAR:g}")


def _finite(pair: Pair) -> Finding | None:
    wrong = int((~np.isfinite(pair.displacement_voxels).all(axis=0)).sum())
    if not wrong:
        return None
    return Finding("bad", f"The displacement is not finite at {wrong} voxels", "every voxel must be finite")


def _proof(metrics: Mapping[str, Any]) -> Finding | None:
    certificate = metrics.get("certificate") or {}
    proven, failing = _number(certificate.get("proven")), _number(certificate.get("failing_cells"))
    if proven is None:
        return None
    threshold = "good: the determinant is proven positive in every cell of both maps, not at voxels only"
    if proven == 1:
        least = _number(certificate.get("least_volume"))
        more = "" if least is None else f"; no volume shrinks below {format_number(least)} of what it was"
        repaired = _number(certificate.get("repaired_cells"))
        mended = f"; {format_number(repaired)} cells were repaired" if repaired else ""
        return Finding("good", f"Proven fold-free in both directions{more}{mended}", threshold)
    return Finding("bad", f"Not proven fold-free: {format_number(failing or 0)} cells fail", threshold)


def _of_maps(pair: Pair) -> dict[str, Any]:
    """What the metrics lack and the maps tell: folds under the rule that found them, the mean inverse error."""
    found: dict[str, Any] = {}
    if not _percents(pair.metrics):
        if pair.folded is not None:
            found["folds_percent"] = {pair.folded_rule or "as given": 100.0 * float(pair.folded.mean())}
        elif pair.determinant is not None:
            found["folds_percent"] = {"determinant ≤ 0": 100.0 * float((pair.determinant <= 0).mean())}
    if _number(_errors(pair.metrics).get("mean")) is None and pair.inverse_error is not None:
        mean = float(np.mean(pair.inverse_error))
        found["inverse_consistency_voxels"] = {**_errors(pair.metrics), "mean": mean}
    return found


def _percents(metrics: Mapping[str, Any]) -> dict[str, float]:
    percents = {rule: _number(value) for rule, value in dict(metrics.get("folds_percent") or {}).items()}
    return {rule: value for rule, value in percents.items() if value is not None}


def _errors(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return dict(metrics.get("inverse_consistency_voxels") or {})


def _folds(metrics: Mapping[str, Any]) -> Finding | None:
    known = _percents(metrics)
    if not known:
        return None
    threshold = f"good: none; tolerable: up to {FEW_FOLDS} % of voxels"
    most = max(known.values())
    if most == 0:
        count = len(known)
        rules = "any rule" if count == len(RULES) else f"the rule {next(iter(known))}" if count == 1 else "the rules "
        return Finding(
            "good", f"No folds by {rules}" + (", ".join(known) if rules.endswith("rules ") else ""), threshold
        )
    rule = next(rule for rule, value in reversed(list(known.items())) if value == most)
    return Finding(
        "care" if most <= FEW_FOLDS else "bad", f"Folds: {format_number(most)} % of voxels (rule: {rule})", threshold
    )


def _consistency(metrics: Mapping[str, Any]) -> Finding | None:
    numbers = _errors(metrics)
    mean = _number(numbers.get("mean"))
    if mean is None:
        return None
    level = "good" if mean <= CONSISTENT else "care" if mean <= INCONSISTENT else "bad"
    words = {
        "good": "Inverse consistency within ½ voxel on average",
        "care": "Inverse consistency only within one voxel on average",
        "bad": "Not inverse consistent: more than one voxel on average",
    }[level]
    worst = _number(numbers.get("max"))
    more = "" if worst is None else f", {format_number(worst)} at most"
    if not isfinite(mean):
        level, words = "bad", "Inverse consistency is not a number"
    return Finding(
        level,
        f"{words} ({format_number(mean)} voxels{more})",
        f"good: mean error up to {CONSISTENT} voxels; tolerable: up to {INCONSISTENT:g}",
    )


def _dice(metrics: Mapping[str, Any]) -> Finding | None:
    before, after = _number(metrics.get("dice_before")), _number(metrics.get("dice"))
    if before is None or after is None:
        return None
    numbers = f"from {format_dice(before)} to {format_dice(after)}"
    if after > before:
        return Finding("good", f"Dice rose {numbers}", "good: higher after than before")
    return Finding("bad", f"Dice did not rise: {numbers}", "good: higher after than before")


def _landmarks(metrics: Mapping[str, Any]) -> Finding | None:
    before, after = (_at(metrics, (name, "mean")) for name in ("tre_mm_before", "tre_mm"))
    if before is None or after is None:
        return None
    numbers = f"from {format_number(before)} to {format_number(after)} mm on average (TRE)"
    threshold = "good: nearer after than before"
    if after < before:
        return Finding("good", f"Landmarks came closer, {numbers}", threshold)
    return Finding("bad", f"Landmarks did not come closer: {numbers}", threshold)


def _similarity(metrics: Mapping[str, Any]) -> Finding | None:
    before, after = _number(metrics.get("similarity_before")), _number(metrics.get("similarity_after"))
    if before is None or after is None:
        return None
    numbers = f"from {format_number(before)} to {format_number(after)}"
    if after < before:
        return Finding(
            "good", f"The images became more alike: {numbers}", "good: dissimilarity lower after than before"
        )
    return Finding(
        "bad", f"The images did not become more alike: {numbers}", "good: dissimilarity lower after than before"
    )


def number_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of the table of numbers: (name, before, after), known names first, then whatever else is a number."""
    percent = dict(metrics.get("folds_percent") or {})
    error = dict(metrics.get("inverse_consistency_voxels") or {})
    proof = dict(metrics.get("certificate") or {})
    tre, tre_before = (dict(metrics.get(name) or {}) for name in ("tre_mm", "tre_mm_before"))
    rows: list[tuple[str, Any, Any, str]] = [
        ("Cells not proven fold-free, both maps ↓", None, proof.get("failing_cells"), ""),
        ("Least volume change, both maps ↑", None, proof.get("least_volume"), ""),
        ("Cells repaired ↓", None, proof.get("repaired_cells") or None, ""),
        ("Largest move of a repair ↓", None, proof.get("largest_repair_voxels") or None, " voxels"),
        ("Dice ↑", format_dice(metrics.get("dice_before")), format_dice(metrics.get("dice")), ""),
        ("Dissimilarity ↓", metrics.get("similarity_before"), metrics.get("similarity_after"), ""),
        ("Landmark error (TRE), mean ↓", tre_before.get("mean"), tre.get("mean"), " mm"),
        ("Landmark error (TRE), largest ↓", tre_before.get("max"), tre.get("max"), " mm"),
        ("Folds, forward differences: cells ↓", None, metrics.get("folds_forward"), ""),
    ]
    rows += [(f"Folds, {RULES.get(rule, rule)} ↓", None, value, " %") for rule, value in percent.items()]
    rows += [
        ("Non-diffeomorphic volume (NDV) ↓", None, metrics.get("ndv_percent"), " %"),
        ("SDlogJ ↓", None, metrics.get("sdlogj"), ""),
        ("SDlogJ as Learn2Reg computes it ↓", None, metrics.get("sdlogj_learn2reg"), ""),
        ("Inverse-consistency error, mean ↓", None, error.get("mean"), " voxels"),
        ("Inverse-consistency error, 99th percentile ↓", None, error.get("p99"), " voxels"),
        ("Inverse-consistency error, largest ↓", None, error.get("max"), " voxels"),
        ("Time ↓", None, metrics.get("seconds"), " s"),
    ]
    rows += [(name.replace("_", " "), None, value, "") for name, value in metrics.items() if _is_other(name, value)]
    return [
        (name, "" if before is None else format_number(before) + unit, format_number(after) + unit)
        for name, before, after, unit in rows
        if after is not None
    ]


def pairs_table(metrics: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table of pairs, the mean over the pairs that have the number as the last row."""
    columns = {
        "Dice before": ("dice_before",),
        "Dice ↑": ("dice",),
        "TRE before, mm": ("tre_mm_before", "mean"),
        "TRE, mm ↓": ("tre_mm", "mean"),
        "Proven ↑": ("certificate", "proven"),
        **{f"Folds ({rule.replace('_', ' ')}), % ↓": ("folds_percent", rule) for rule in RULES},
        "NDV, % ↓": ("ndv_percent",),
        "SDlogJ ↓": ("sdlogj",),
        "Inverse error, mean ↓": ("inverse_consistency_voxels", "mean"),
        "p99 ↓": ("inverse_consistency_voxels", "p99"),
        "Seconds ↓": ("seconds",),
    }
    headings, cells = [], []
    for heading, keys in columns.items():
        numbers = [_at(one, keys) for one in metrics]
        known = [number for number in numbers if number is not None]
        if not known:
            continue
        text = format_dice if keys[0].startswith("dice") else format_number
        headings.append(heading)
        cells.append(["–" if n is None else str(text(n)) for n in (*numbers, sum(known) / len(known))])
    return headings, [list(row) for row in zip(*cells, strict=True)] or [[] for _ in range(len(metrics) + 1)]


def _at(metrics: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    value: Any = metrics
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return _number(value)


def label_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, str, float]]:
    """Rows of the table of Dice per label: (label, before, after, after as a share of 1 for the bar)."""
    before = {str(label): value for label, value in dict(metrics.get("dice_per_label_before") or {}).items()}
    return [
        (
            str(label),
            format_dice(before.get(str(label))) or "",
            format_dice(value) or "–",
            min(max(_number(value) or 0.0, 0.0), 1.0),
        )
        for label, value in dict(metrics.get("dice_per_label") or {}).items()
    ]


_KNOWN = {
    *("dice", "dice_before", "dice_per_label", "dice_per_label_before", "folds_forward", "folds_percent"),
    *("certificate", "ndv_percent", "inverse_consistency_voxels", "sdlogj", "sdlogj_learn2reg"),
    *("similarity_before", "similarity_after", "seconds"),
}


def _is_other(name: str, value: object) -> bool:
    return name not in _KNOWN and isinstance(value, SupportsFloat) and not isinstance(value, str)


def _number(value: object) -> float | None:
    """`value` as a number, None where it is none; nan where it is not finite."""
    return float(value) if isinstance(value, SupportsFloat) else None


def format_dice(value: object) -> str | None:
    """A Dice coefficient to the thousandth; None where there is none."""
    number = _number(value)
    return None if number is None else f"{number:.3f}" if isfinite(number) else format_number(number)


def format_number(value: SupportsFloat | str) -> str:
    """A number for people: four digits that count, no exponent down to a ten-millionth; text as it is."""
    if isinstance(value, str):
        return value
    number = float(value)
    if not isfinite(number):
        return "not a number" if number != number else "∞" if number > 0 else "−∞"
    if number == int(number) and abs(number) < 1e15:
        text = (
            f"{int(number):,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if abs(number) >= 10000 else f"{int(number)}"
        )
    elif abs(number) >= 1000:
        text = f"{number:.1f}"
    elif abs(number) >= 1e-7:
        text = np.format_float_positional(number, precision=4 if abs(number) >= 0.1 else 3, fractional=False, trim="-")
    else:
        text = f"{number:.2e}"
    return text.replace("-", "−") if "e" not in text else text
