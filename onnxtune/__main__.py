"""`python -m onnxtune` is `onnxtune`."""

from onnxtune.cli import main

if __name__ == "__main__":
    main()
