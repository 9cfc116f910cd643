"""`python -m onnxtune` is `onnxtune`."""

from onnxtune.entry import main

if __name__ == "__main__":
    main()
