"""The training loop, the search for its starting point, gradients, and stopping."""
