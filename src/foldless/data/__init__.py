"""Images to learn from: generated shapes, MNIST, folders of volumes; one lattice for all, and the pairs drawn."""
