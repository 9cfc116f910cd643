"""docs/assets/demo.svg: what `onnxtune demo` prints in a real run, as a picture. Run: python docs/_record.py"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

from onnxtune.api import optimize
from onnxtune.demo import accuracy, held_out_images, model_path
from onnxtune.model import write_text
from onnxtune.render.terminal import show

WIDTH = 124
TARGET = Path(__file__).parent / "assets" / "demo.svg"


def main() -> None:
    images, labels = held_out_images()
    result = optimize(model_path(), threads=1, inputs=[{"image": images[:64]}])
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    console.print(Text("$ onnxtune demo --threads 1", style="bold"))
    show(result.report, None, console=console)
    before, after = accuracy(model_path(), images, labels), accuracy(result.model, images, labels)
    console.print(f"Accuracy on {len(labels)} test images the model was not trained on: {before:.2%} -> {after:.2%}")
    svg = console.export_svg(title="onnxtune demo")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # nothing is fetched from elsewhere
    svg = svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace")
    write_text(TARGET, svg)


if __name__ == "__main__":
    main()
