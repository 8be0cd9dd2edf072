"""Networks: their architectures, and the stacks built from them."""
