"""Checks exported networks with onnx and onnxruntime: prints one JSON object per model.

DIR holds what the example `onnx_samples` of dkd-models wrote: NAME.onnx, NAME.folded.onnx and NAME.safetensors.
"""

import argparse
import json
import pathlib

import numpy as np
import onnx
import onnxruntime


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


def check_file(path, images, logits):
    """Largest difference to the logits, relative to the largest of them or 1, and how many batch norms there are."""
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert len(json.loads(metadata["labels"])) == int(metadata["num_classes"]) == logits.shape[1], path
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    # Batches of two sizes with one session: the number of images is free.
    parts = [session.run(["logits"], {"images": part})[0] for part in (images[:1], images[1:])]
    differences = np.abs(np.concatenate(parts).astype(np.float64) - logits)
    assert np.isfinite(differences).all(), path
    norms = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    return float(differences.max() / max(1.0, np.abs(logits).max())), norms


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR")
    folder = parser.parse_args().folder
    for path in sorted(folder.glob("*.safetensors")):
        name = path.name.removesuffix(".safetensors")
        tensors = read_tensors(path)
        logits = tensors["logits"].astype(np.float64)
        plain, norms = check_file(folder / f"{name}.onnx", tensors["images"], logits)
        folded, left = check_file(folder / f"{name}.folded.onnx", tensors["pixels"], logits)
        line = {"model": name, "images": len(logits), "largest": float(np.abs(logits).max())}
        line |= {"plain": plain, "folded": folded, "batch_norms": norms, "batch_norms_left": left}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
