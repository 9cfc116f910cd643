"""The arithmetic of each rule: one file, one rule; its TOML in rules/ says what it is."""
