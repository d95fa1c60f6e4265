"""Weight edits: tensor arithmetic, one module an edit, on matrices of shape (out, in)."""
