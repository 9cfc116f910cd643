"""The checks of `onnxtune check`, one file each: a card, how to find it, and why, in the docstring."""
