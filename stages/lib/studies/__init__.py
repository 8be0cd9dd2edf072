"""Studies: grids, figures from finished runs, thresholds, confusion, estimates of cost."""
