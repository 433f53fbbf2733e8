"""The picture of README: ``python docs/images/make_map.py REGISTRY MODEL OUTPUT.png``.

Left a map of the registry's rows, coloured by family; right the distances of one model, nearest first. The committed
picture is of 24 small trained models of known lineage, scored on the embedded text set.
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np

import llreg

INK, MUTED = "#1f2328", "#6e7781"
COLORS = ["#2a78d6", "#e8710a", "#1a9e77", "#8a4fd0", "#c2255c"]
SHOWN = 9  # distances
NAMED = ("gpt2-mix-undertrained", "gpt2-mix-s1-step0300")


def main() -> None:
    """Draw the picture."""
    root, model, output = sys.argv[1:]
    registry = llreg.open(root)
    names = [record.identity.name for record in registry.records()]
    kl = registry.kl([model], names)
    distances = dict(zip(names, kl.kl_bits_per_byte.values[0], strict=True))
    errors = dict(zip(names, kl.kl_bits_per_byte_se.values[0], strict=True))
    points = dict(zip(names, registry.map(perplexity=4).map.xy, strict=True))
    families = {name: "-".join(name.split("-")[:2]) for name in names}

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), width_ratios=[1.15, 1], dpi=160)
    for color, family in zip(COLORS, sorted(set(families.values())), strict=True):
        xy = np.array([points[name] for name in names if families[name] == family])
        left.scatter(*xy.T, s=46, color=color, alpha=0.85, linewidths=0.8, edgecolors="white", label=family)
    for name in NAMED:
        left.annotate(name, points[name], (7, -3), textcoords="offset points", color=MUTED, fontsize=8)
    left.legend(loc="center", frameon=False, fontsize=10, labelcolor=INK, handletextpad=0.2)
    left.set_title("a map of the models, by their rows", loc="left", color=INK, fontsize=11)
    left.set(xticks=[], yticks=[])
    left.margins(0.16)
    for side in left.spines.values():
        side.set_color("#d0d7de")

    right.axis("off")
    right.set_title(f"nearest to {model}: KL, bits per byte", loc="left", color=INK, fontsize=11)
    nearest = sorted((name for name in names if name != model), key=distances.__getitem__)[:SHOWN]
    for line, name in enumerate(nearest):
        y = 0.93 - line * 0.1
        right.text(0.0, y, name, color=INK, fontsize=10, transform=right.transAxes)
        right.text(0.78, y, f"{distances[name]:.4f}", color=INK, fontsize=10, ha="right", transform=right.transAxes)
        right.text(0.81, y, f"± {errors[name]:.4f}", color=MUTED, fontsize=10, transform=right.transAxes)
    figure.tight_layout()
    figure.savefig(output, metadata={"Software": None})


if __name__ == "__main__":
    main()
