"""Train the model that `onnxtune demo` runs on, and export it as a user would.

    pip install torch==2.13.0 scikit-learn==1.9.1 onnx==1.23.2 numpy==2.4.6
    python benchmarks/train_demo.py            # about three minutes on one core

writes `onnxtune/assets/demo/digits.onnx` and `digits.npz` and prints the held-out accuracy that the README
beside them states. Using onnxtune needs neither torch nor scikit-learn.

The data are scikit-learn's `load_digits`: 1797 scans of 8x8 pixels with values 0..16, enlarged to 32x32 (bicubic)
and stored as uint8, so that training sees exactly the pixels that are shipped. A stratified fifth (360 images) is
held out: it is never trained on and never chosen by, for the number of epochs is fixed in advance.

The network is small, and shaped like what reaches a deployment engineer:

- channel counts as a pruning tool leaves them, 31 and 63: not multiples of four;
- 5x5 kernels, and after the first pool a LocalResponseNorm with AlexNet's constants;
- a fully connected head after Flatten: Linear, BatchNorm1d, ReLU, Dropout, Linear;
- BatchNormalization not folded into the convolutions, Dropout still in the graph.

It is deterministic: one seed, one thread, deterministic kernels. On the same kind of CPU with the same package
versions two runs give the same bytes; another CPU may sum in another order and end with slightly other weights.
"""

import argparse
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

SEED = 20
SIZE = 32  # pixels, height and width of the enlarged image
HELD_OUT = 360  # images
EPOCHS = 20
BATCH = 64
SHIFT = 3  # pixels, the largest random shift during training
OPSET = 17
ASSETS = Path(__file__).resolve().parent.parent / "onnxtune" / "assets" / "demo"


class _ExportedLrn(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """Gives ONNX's own LRN operator: left alone, the exporter spells the module out as a 3-D average pool."""

    @staticmethod
    def forward(ctx: Any, x: Any, size: int, alpha: float, beta: float, bias: float) -> Any:
        return functional.local_response_norm(x, size, alpha, beta, bias)

    @staticmethod
    def symbolic(g: Any, x: Any, size: int, alpha: float, beta: float, bias: float) -> Any:
        node = g.op("LRN", x, size_i=size, alpha_f=alpha, beta_f=beta, bias_f=bias)
        node.setType(x.type())
        return node


class LocalResponseNorm(nn.LocalResponseNorm):  # type: ignore[misc, unused-ignore]
    def forward(self, x: Any) -> Any:
        if torch.onnx.is_in_onnx_export():
            return _ExportedLrn.apply(x, self.size, self.alpha, self.beta, self.k)  # type: ignore[no-untyped-call, unused-ignore]
        return super().forward(x)


def conv_block(index: int, inputs: int, outputs: int, kernel: int) -> dict[str, Any]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return {f"conv{index}": conv, f"bn{index}": nn.BatchNorm2d(outputs), f"relu{index}": nn.ReLU()}


def build_network() -> Any:
    """Image (N, 1, 32, 32) in [0, 1] -> logits (N, 10)."""
    layers = {
        **conv_block(1, 1, 31, kernel=5),
        "pool1": nn.MaxPool2d(2),
        "lrn1": LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0),
        **conv_block(2, 31, 63, kernel=5),
        **conv_block(3, 63, 63, kernel=3),
        **conv_block(4, 63, 63, kernel=3),
        "pool4": nn.MaxPool2d(2),
        **conv_block(5, 63, 63, kernel=3),
        "pool5": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "fc6": nn.Linear(63 * 4 * 4, 127),
        "bn6": nn.BatchNorm1d(127),
        "relu6": nn.ReLU(),
        "drop6": nn.Dropout(0.5),
        "fc7": nn.Linear(127, 10),
    }
    return nn.Sequential(OrderedDict(layers))


def load_images() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """All 1797 images (N, 32, 32) and their labels (N,)."""
    digits = load_digits()
    small = torch.from_numpy(digits.images.astype(np.float32) / 16)[:, None]
    large = functional.interpolate(small, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    images = (large[:, 0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return images, digits.target.astype(np.uint8)


def preprocess(images: NDArray[np.uint8]) -> Any:
    """(N, 32, 32) uint8 -> (N, 1, 32, 32) float32 in [0, 1]."""
    return torch.from_numpy(images[:, None].astype(np.float32) / 255)


def shifted(batch: Any, rng: np.random.Generator) -> Any:
    """Each image moved by up to SHIFT pixels either way; what moves in is black."""
    padded = functional.pad(batch, (SHIFT, SHIFT, SHIFT, SHIFT))
    corners = rng.integers(0, 2 * SHIFT + 1, size=(len(batch), 2))
    return torch.stack([padded[i, :, y : y + SIZE, x : x + SIZE] for i, (y, x) in enumerate(corners)])


def batches(count: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    order = rng.permutation(count)
    for start in range(0, count - BATCH + 1, BATCH):
        yield order[start : start + BATCH]


def train(network: Any, x: Any, y: Any) -> None:
    rng = np.random.default_rng(SEED)
    steps = EPOCHS * (len(x) // BATCH)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=steps)
    network.train()
    for epoch in range(EPOCHS):
        started, losses = time.perf_counter(), []
        for indices in batches(len(x), rng):
            loss = functional.cross_entropy(network(shifted(x[indices], rng)), y[indices])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1:2d}: loss {np.mean(losses):.4f}, {time.perf_counter() - started:.1f} s", flush=True)


def accuracy(network: Any, x: Any, y: Any) -> float:
    network.eval()
    with torch.no_grad():
        return float((network(x).argmax(dim=1) == y).float().mean())


def export(network: Any, path: Path) -> None:
    """Write an inference graph in which BatchNormalization and Dropout are still nodes of their own.

    The exporter drops a Dropout that is in eval mode, so only those modules are put in training mode for the
    trace, and afterwards the `training_mode` input of each Dropout node, a constant, is set to false.
    """
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated, and Dropout is in training mode
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, SIZE, SIZE),),
            path,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            dynamo=False,
        )
    model = onnx.load(path)
    constants = {node.output[0]: node for node in model.graph.node if node.op_type == "Constant"}
    for node in model.graph.node:
        if node.op_type == "Dropout":
            constants[node.input[2]].attribute[0].t.CopyFrom(numpy_helper.from_array(np.array(False)))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export the model of `onnxtune demo`.")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder for digits.onnx and digits.npz")
    folder: Path = parser.parse_args().out

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    images, labels = load_images()
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=HELD_OUT, random_state=SEED, stratify=labels
    )
    network = build_network()
    train(network, preprocess(train_images), torch.from_numpy(train_labels.astype(np.int64)))
    held_out = accuracy(network, preprocess(test_images), torch.from_numpy(test_labels.astype(np.int64)))
    print(f"held-out accuracy: {held_out:.4f} ({round(held_out * HELD_OUT)} of {HELD_OUT} images)")

    folder.mkdir(parents=True, exist_ok=True)
    export(network, folder / "digits.onnx")
    np.savez_compressed(folder / "digits.npz", images=test_images, labels=test_labels)
    for name in ("digits.onnx", "digits.npz"):
        print(f"{folder / name}: {(folder / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
