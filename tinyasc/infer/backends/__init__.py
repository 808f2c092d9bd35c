"""One runtime per file; each gives `.bundle`, `.input_shape`, `.n_classes` and `.logits(features)`."""
