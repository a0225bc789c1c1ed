"""Medians and spread of the samples, as tables, JSON and a plot."""

import json
import statistics
import subprocess
import tempfile
from pathlib import Path

import systems
import targets

SIDES = ("out_of_place", "in_place")


def summarise(samples):
    """(collective, ranks, size) → system → side → {"median", "least", "largest", "samples"}."""
    summary = {}
    for (collective, ranks, size, system, side), times in sorted(samples.items()):
        row = summary.setdefault((collective, ranks, size), {}).setdefault(system, {})
        row[side] = {
            "median": rounded(statistics.median(times)),
            "least": rounded(min(times)),
            "largest": rounded(max(times)),
            "samples": [rounded(time) for time in times],
        }
    return summary


def rounded(microseconds):
    """Four digits: more than any of them means."""
    return float(f"{microseconds:.4g}")


def one_figure(summary, figure):
    """The medians or the samples alone, in the same shape."""
    return {
        row: {name: {side: f[figure] for side, f in sides.items()} for name, sides in by_system.items()}
        for row, by_system in summary.items()
    }


def print_times(summary, names):
    for side in SIDES:
        print(f"\n{side.replace('_', ' ')}: median µs (least–largest)")
        print(f"{'':34}" + "".join(f"{name:>31}" for name in names))
        for (collective, ranks, size), by_system in summary.items():
            head = f"{collective:<15} {ranks} ranks {targets.human(size):>10}"
            print(f"{head:<34}" + "".join(f"{cell(by_system, name, side):>31}" for name in names))


def cell(by_system, name, side):
    figures = by_system.get(name, {}).get(side)
    if not figures:
        return "—"
    return f"{short(figures['median'])} ({short(figures['least'])}–{short(figures['largest'])})"


def short(microseconds):
    return f"{microseconds:.3g}" if microseconds < 1000 else f"{microseconds:.0f}"


def print_verdicts(verdicts):
    print("\nratios: time of the peer over Ronde's; for tolerance, time with recover over time with none;")
    print("first of the medians, then the median of the ratios of each round, then of the least values;")
    print("bare: time of the peer over that of the bare transport, which no library can be ahead of by much")
    for v in verdicts:
        bound = "" if v.factor is None else f"{'≥' if v.more_is_better else '≤'} {v.factor:g}"
        mark = {None: "", True: "met", False: "MISSED"}[v.met]
        bare = "" if v.bare is None else f"bare {v.bare:.2f}"
        pair = f"{v.ours} : {v.theirs}"
        by_round = "" if v.by_round is None else f"{v.by_round:.2f}"
        ratios = f"{v.ratio:8.2f} {by_round:>8} {v.by_least:8.2f}"
        print(f"{v.row:<34} {v.side:<13} {pair:<52} {ratios} {bound:>7} {mark:<6} {bare}")
    judged = [v for v in verdicts if v.met is not None]
    missed = [v for v in judged if not v.met]
    beyond = sum(v.bare is not None and v.bare < v.factor for v in missed)
    print(f"\n{len(judged) - len(missed)} of {len(judged)} targets met; {beyond} of the others the bare transport misses too")
    print(f"{sum(v.met_at_best for v in judged)} met by the least values")


def read_json(path):
    """The samples that a file holds, as they were measured: (collective, ranks, size, system, side) → times."""
    kept = json.loads(path.read_text())
    samples = {
        (row["collective"], row["ranks"], row["bytes"], system, side): figures["samples"]
        for row in kept["rows"]
        for system, sides in row["systems"].items()
        for side, figures in sides.items()
    }
    return kept, samples


def write_json(path, about, summary, verdicts):
    rows = [
        {"collective": collective, "ranks": ranks, "bytes": size, "systems": by_system}
        for (collective, ranks, size), by_system in summary.items()
    ]
    judged = [{**vars(v), "met": v.met} for v in verdicts]
    # Whoever is ended here leaves what was there before.
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps({**about, "rows": rows, "comparisons": judged}, indent=1) + "\n")
    beside.replace(path)


def draw(path, summary):
    """Draws time over size, one panel per collective and number of ranks, in the prepared environment."""
    rows = [[list(row), medians] for row, medians in one_figure(summary, "median").items()]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.json"
        data.write_text(json.dumps(rows))
        script = Path(__file__).with_name("plot.py")
        subprocess.run([systems.VENV / "bin/python", script, data, path], check=True)
