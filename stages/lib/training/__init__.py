"""Training a stack: the loop, the optimizer, losses, averaging, augmentation."""
