"""Rules for onnxtune. Each module is a rule, with its TOML of the same name beside it."""
