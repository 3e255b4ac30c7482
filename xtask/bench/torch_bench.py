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
from torch import nn
from torch.nn import functional as F


def pair(value, usual):
    value = usual if value is None else value
    return (value, value) if isinstance(value, int) else tuple(value)


def listed(value):
    return [value] if isinstance(value, str) else value


class Network(nn.Module):
    """The layers of a description, one after the other; values that are read later are kept until then."""

    def __init__(self, layers, classes, image):
        super().__init__()
        self.modules_by_index = nn.ModuleList()
        self.steps = []
        names = {"input": -1}
        readers = {}
        shapes = {-1: tuple(image)}
        for index, layer in enumerate(layers):
            inputs = [names[n] for n in listed(layer["from"])] if "from" in layer else [index - 1]
            for value in inputs:
                readers.setdefault(value, []).append(index)
            if "name" in layer:
                names[layer["name"]] = index
            with torch.no_grad():
                module = self.module(layer, shapes[inputs[0]][0], classes)
                probe = [torch.zeros((2, *shapes[i])) for i in inputs]
                shapes[index] = tuple(module(*probe).shape[1:])
            self.modules_by_index.append(module)
            self.steps.append((index, inputs))
        for index, layer in enumerate(layers):
            # As networks are written by hand: a ReLU overwrites what nobody else reads and no gradient needs.
            [value, *_] = self.steps[index][1]
            if layer["op"] in ("relu", "relu6") and readers[value] == [index] and value >= 0:
                if layers[value]["op"] in ("batch_norm", "add"):
                    self.modules_by_index[index].inplace = True
        self.last_reader = {value: max(of) for value, of in readers.items()}

    @staticmethod
    def module(layer, channels, classes):
        op, get = layer["op"], layer.get
        out = classes if get("out") == "classes" else get("out")
        if op == "conv2d":
            return nn.Conv2d(
                channels,
                out,
                pair(get("kernel"), 1),
                pair(get("stride"), 1),
                pair(get("padding"), 0),
                groups=get("groups", 1),
                bias=get("bias", False),
            )
        if op == "linear":
            return nn.Linear(channels, out, bias=get("bias", True))
        if op == "batch_norm":
            return nn.BatchNorm2d(channels)
        if op == "relu":
            return nn.ReLU()
        if op == "relu6":
            return nn.ReLU6()
        if op == "add":
            return Function(lambda a, b: a + b)
        if op == "concat":
            return Function(lambda *values: torch.cat(values, 1))
        if op == "max_pool2d":
            kernel = pair(get("kernel"), 1)
            return nn.MaxPool2d(kernel, pair(get("stride"), kernel), pair(get("padding"), 0))
        if op == "avg_pool2d":
            kernel = pair(get("kernel"), 1)
            count = get("count_include_pad", True)
            return nn.AvgPool2d(kernel, pair(get("stride"), kernel), pair(get("padding"), 0), count_include_pad=count)
        if op == "global_avg_pool":
            return Function(lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1))
        if op == "flatten":
            return nn.Flatten()
        if op == "dropout":
            return nn.Dropout(get("p"))
        if op == "slice_channels":
            start, count = get("start"), get("count")
            return Function(lambda x: x[:, start : start + count])
        if op == "channel_shuffle":
            return nn.ChannelShuffle(get("groups"))
        if op == "pad_channels":
            before, after = get("before", 0), get("after", 0)
            return Function(lambda x: F.pad(x, (0, 0, 0, 0, before, after)))
        raise SystemExit(f"no operation {op}")

    def forward(self, x):
        values = {-1: x}
        for (index, inputs), module in zip(self.steps, self.modules_by_index):
            values[index] = module(*(values[i] for i in inputs))
            for value in inputs:
                if self.last_reader[value] == index:
                    values.pop(value, None)
        return values[index]


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *values):
        return self.function(*values)


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
