"""One runtime per file, and which of them answers for which file (`choose`).

Each gives `.bundle`, `.input_shape`, `.n_classes` and `.logits(features)`.
"""
