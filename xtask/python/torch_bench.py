"""Training or inference speed of PyTorch on the networks of `dkd bench`: prints one JSON object.

The network is the one that `dkd inspect MODEL --description` prints, built from PyTorch's own modules. A training step is forward,
cross-entropy, backward, SGD with momentum; inference is forward in evaluation mode without gradients. f32; one batch that stays in
memory.
"""

import argparse
import json
import resource
import time

import torch
from network import Network
from torch import nn


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--description", required=True, help="file with the layers")
    parser.add_argument("--image", default="3x32x32")
    parser.add_argument("--mode", choices=["train", "infer"], default="train")
    parser.add_argument("--format", choices=["default", "channels_last"], default="default")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    image = [int(n) for n in args.image.split("x")]
    with open(args.description) as file:
        layers = json.load(file)["layers"]
    layout = torch.channels_last if args.format == "channels_last" else torch.contiguous_format
    model = Network(layers, args.classes, image).to(memory_format=layout).train(args.mode == "train")
    images = torch.randn(args.batch, *image).to(memory_format=layout)
    labels = torch.arange(args.batch) % args.classes
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    loss_function = nn.CrossEntropyLoss()
    run = torch.compile(model) if args.compile else model

    def step():
        if args.mode == "infer":
            with torch.inference_mode():
                run(images)
            return
        optimizer.zero_grad(set_to_none=True)
        loss_function(run(images), labels).backward()
        optimizer.step()

    for _ in range(3):
        step()
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < args.seconds:
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    times.sort()
    print(
        json.dumps(
            {
                "model": args.model,
                "mode": args.mode,
                "format": args.format,
                "compile": args.compile,
                "torch": torch.__version__,
                "threads": args.threads,
                "parameters": sum(p.numel() for p in model.parameters()),
                "images_per_s": args.batch / times[len(times) // 2],
                "fastest_images_per_s": args.batch / times[0],
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
