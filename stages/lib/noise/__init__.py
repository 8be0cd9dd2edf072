"""Label noise: transition matrices, orders of classes, and the drawing of labels."""
