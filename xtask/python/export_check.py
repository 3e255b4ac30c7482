"""Checks exported networks with onnxruntime and PyTorch: prints one JSON object per model.

DIR holds what the example `export_samples` of dkd-models wrote: for every network two ONNX files, its weights in PyTorch's format and
as safetensors, its layers, and images with the engine's logits for them.
"""

import argparse
import json
import pathlib

import numpy as np
import onnx
import onnxruntime
import torch
from network import Network


def read_tensors(path):
    """The f32 tensors of a safetensors file."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, stop = (end + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[start:stop], "<f4").reshape(entry["shape"])
    return tensors


def difference(got, logits):
    """The largest, relative to the largest logit or 1."""
    differences = np.abs(got.astype(np.float64) - logits)
    assert np.isfinite(differences).all()
    return float(differences.max() / max(1.0, np.abs(logits).max()))


def check_weights(folder, name, images, logits):
    """PyTorch's logits, with the weights from its own format; those of the other file must be the same bits."""
    state = torch.load(folder / f"{name}.pth", weights_only=True)
    tensors = read_tensors(folder / f"{name}.weights.safetensors")
    assert tensors.keys() == state.keys(), name
    assert all(np.array_equal(tensors[key], value.numpy()) for key, value in state.items()), name
    layers = json.loads((folder / f"{name}.json").read_text())["layers"]
    network = Network(layers, logits.shape[1], images.shape[1:]).eval()
    network.load(state)
    with torch.inference_mode():
        return difference(network(torch.from_numpy(images.copy())).numpy(), logits)


def check_onnx(path, images, logits):
    """onnxruntime's difference to the logits, and how many batch norms there are."""
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert len(json.loads(metadata["labels"])) == int(metadata["num_classes"]) == logits.shape[1], path
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    # Batches of two sizes with one session: the number of images is free.
    parts = [session.run(["logits"], {"images": part})[0] for part in (images[:1], images[1:])]
    norms = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    return difference(np.concatenate(parts), logits), norms


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR")
    folder = parser.parse_args().folder
    for path in sorted(folder.glob("*.json")):
        name = path.stem
        tensors = read_tensors(folder / f"{name}.safetensors")
        logits = tensors["logits"].astype(np.float64)
        plain, norms = check_onnx(folder / f"{name}.onnx", tensors["images"], logits)
        folded, left = check_onnx(folder / f"{name}.folded.onnx", tensors["pixels"], logits)
        line = {"model": name, "images": len(logits), "largest": float(np.abs(logits).max())}
        line |= {"plain": plain, "folded": folded, "batch_norms": norms, "batch_norms_left": left}
        # The network of all operations treats vectors as images of one pixel, which PyTorch's modules do not.
        if name != "operations":
            line["pytorch"] = check_weights(folder, name, tensors["images"], logits)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
