"""Output of executed pages: pictures are vector graphics of one size, errors their text."""

c = get_config()  # noqa: F821
c.InlineBackend.figure_formats = {"svg"}
c.InlineBackend.rc = {
    "figure.figsize": (7.0, 3.6),
    "figure.dpi": 100,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "fastopt",
    # Okabe and Ito's palette, which the colour-blind tell apart.
    "axes.prop_cycle": "cycler('color', ['#0072B2', '#E69F00', '#009E73', '#D55E00', '#CC79A7', '#56B4E9', '#F0E442', '#000000'])",  # noqa: E501
}
c.InteractiveShell.xmode = "Minimal"  # an error is its text; tracebacks would show where this site was built
