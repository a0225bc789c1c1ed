"""Draws the medians: plot.py ROWS.json OUTPUT.svg"""

import json
import sys

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: a third of the size
import matplotlib.pyplot as plt

COLOURS = {"openmpi": "tab:red", "gloo": "tab:orange", "bare": "tab:gray", "ronde": "tab:blue"}
LINES = {"shm": "-", "tcp": "--"}


def curve(name):
    library, transport, *variant = name.split("-")
    marker = "s" if "registered" in variant else "x" if "none" in variant else "o"
    return {"color": COLOURS[library], "linestyle": LINES[transport], "marker": marker, "label": name}


def time_of(sides):
    """What has no out-of-place side is drawn with its other one."""
    return sides.get("out_of_place") or sides.get("in_place")


def main():
    source, target = sys.argv[1:]
    with open(source, encoding="utf-8") as file:
        rows = json.load(file)
    panels = sorted({(collective, ranks) for (collective, ranks, _), _ in rows})
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 5), squeeze=False, sharey=True)
    for axis, panel in zip(axes[0], panels):
        here = [(size, systems) for (collective, ranks, size), systems in rows if (collective, ranks) == panel]
        for name in sorted({name for _, systems in here for name in systems}):
            times = [(size, time_of(systems.get(name, {}))) for size, systems in here]
            times = [(size, time) for size, time in times if time]
            if times:
                axis.plot(*zip(*times), markersize=4, **curve(name))
        axis.set(xscale="log", yscale="log", xlabel="bytes", title=f"{panel[0]}, {panel[1]} ranks")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("µs per operation, out of place")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(target)


main()
