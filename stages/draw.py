"""Draws a figure's picture."""

from stages.command import KEY, SCALE, stage
from stages.lib.core import files, paths
from stages.lib.plots import pictures


@stage(SCALE, KEY)
def main(scale: str, key: str) -> None:
    """Draw a figure's picture, for a paper.

    Reads metrics/figures/SCALE/KEY.json; writes plots/figures/SCALE/KEY.svg and
    plots/figures/SCALE/KEY.png.
    """
    figure = pictures.draw(files.read_json(paths.figure_metrics(scale, key)))
    for suffix in ("svg", "png"):
        with files.replacing(paths.figure_picture(scale, key, suffix)) as scratch:
            pictures.save(figure, scratch)


if __name__ == "__main__":
    raise SystemExit(main())
