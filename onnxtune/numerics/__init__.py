"""What a second model computes against a first: errors of every output, and where they begin."""
