"""`python -m onnxtune` is `onnxtune`."""

import sys

try:
    from onnxtune.cli import main
except KeyboardInterrupt:  # so early that nothing of ours could catch it
    sys.stderr.write("onnxtune: interrupted; nothing was written\n")
    sys.exit(130)

if __name__ == "__main__":
    main()
