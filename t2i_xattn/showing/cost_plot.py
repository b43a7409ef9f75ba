"""What attention costs as a plot: site by site, and by the size of the picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from t2i_xattn.costs.cost import Cost
from t2i_xattn.errors import UserError

_COLOURS = {
    "cross-attention": "#c0392b",
    "joint-attention": "#8e44ad",
    "self-attention": "#2980b9",
    "projections": "#f39c12",
    "rest": "#bdc3c7",
}


def plot_costs(costs: Mapping[str, Cost], path: Path) -> None:
    """Writes a PNG: the dearest call of the first run by site, and the parts of each run.

    Args:
        costs: runs by what they are called.
        path: of the file.

    Raises:
        UserError: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "expected the package matplotlib for a plot, but it is not installed; "
            "pip install 't2i-xattn[plots]', or leave --out out"
        ) from error
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    sites, parts = figure.subplots(1, 2, width_ratios=(3, 2))
    first, called = next(iter(costs.values())), next(iter(costs))
    for number, each in enumerate(first.call.sites):
        kernel, layers = each.kernel_flops / 1e9, each.layer_flops / 1e9
        sites.bar(number, kernel, color=_COLOURS[f"{each.site.kind}-attention"])
        sites.bar(number, layers, bottom=kernel, color=_COLOURS["projections"])
    sites.set(
        xlabel="attention site, in the order of the forward pass",
        ylabel="GFLOP of one call of the denoiser",
        title=f"{called}: {first.call.flops / 1e9:,.1f} GFLOP a call",
    )
    bottoms = dict.fromkeys(costs, 0.0)
    for part, colour in _COLOURS.items():
        shares = {n: 100 * each.parts().get(part, 0) / each.flops for n, each in costs.items()}
        if any(shares.values()):
            parts.bar(
                list(costs), list(shares.values()), bottom=list(bottoms.values()), color=colour,
                label=part, width=0.6,
            )  # fmt: skip
            bottoms = {name: bottoms[name] + shares[name] for name in costs}
    parts.set(ylabel="% of the denoiser's FLOPs", ylim=(0, 100), title="where they go")
    parts.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False)
    figure.savefig(path, dpi=100, format="png")
