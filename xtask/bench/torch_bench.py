"""Training speed of PyTorch on the shapes of `dkd bench`: prints one JSON object.

Step: forward, cross-entropy, backward, SGD with momentum; f32; one batch that stays in memory.
"""

import argparse
import json
import resource
import time

import torch
from torch import nn


class SeedStudent(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.pool = nn.MaxPool2d(2, stride=1)
        self.fc1 = nn.Linear(64 * 26 * 26, 16)
        self.fc2 = nn.Linear(16, classes)

    def forward(self, x):
        x = self.pool(self.conv1(x))
        x = self.pool(self.conv2(x))
        return torch.relu(self.fc2(torch.relu(self.fc1(torch.flatten(x, 1)))))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, depth, widths, classes):
        super().__init__()
        blocks = (depth - 2) // 6
        layers = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
        inputs = widths[0]
        for stage, width in enumerate(widths[1:]):
            for block in range(blocks):
                layers.append(Block(inputs, width, 2 if stage > 0 and block == 0 else 1))
                inputs = width
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


def build(name, classes):
    if name == "seed_student":
        return SeedStudent(classes)
    if name.endswith("x4"):
        return ResNet(int(name[len("resnet") : -len("x4")]), (32, 64, 128, 256), classes)
    return ResNet(int(name[len("resnet") :]), (16, 16, 32, 64), classes)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--format", choices=["default", "channels_last"], default="default")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    layout = torch.channels_last if args.format == "channels_last" else torch.contiguous_format
    model = build(args.model, args.classes).to(memory_format=layout).train()
    images = torch.randn(args.batch, 3, 32, 32).to(memory_format=layout)
    labels = torch.arange(args.batch) % args.classes
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    loss_function = nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss_function(model(images), labels).backward()
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
                "format": args.format,
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
