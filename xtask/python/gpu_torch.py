"""Training speed of PyTorch on one GPU, on the networks and batches of `dkd-gpu-suite`: a line for each measurement, and JSON.

Networks are those that `dkd inspect MODEL --description` prints, one `MODEL.json` each in a folder, built from PyTorch's own modules.
Images are generated, 32x32, bytes; a step is a batch of them with crop and flip, forward, loss, backward, SGD with momentum.

  graph    all on the device: bytes, crop and flip, channels last, bf16 by autocast, fused SGD; the whole step is one CUDA graph
  eager    as the published code of these methods does it: float32 with PyTorch's defaults (convolutions in TF32), batches made on the
           CPU by a DataLoader with workers, the loss read after every step. Crop and flip are torchvision's if it is there.
  compile  as `graph`, by torch.compile (`--mode`), which needs a C compiler and Triton
Those that a computer cannot do are said to be missing, with the reason. Without PyTorch or a GPU it ends with code 77, unless `--device
cpu` is given, which is for trying this script: nothing is recorded there. Rates that `--out` has already are kept.
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

# Of a computer on which there is nothing to measure.
NOTHING = 77

try:
    import torch
    from torch.nn import functional as F
except ImportError as missing:
    print(f"error: {sys.executable} has no PyTorch ({missing})", file=sys.stderr)
    sys.exit(NOTHING)

from network import Network

PAD, SIDE = 4, 32
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Samples(torch.utils.data.Dataset):
    """Images with crop and flip, made one by one on the CPU."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels
        self.transform = torchvision_transform()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        if self.transform is not None:
            return self.transform(image.permute(1, 2, 0).numpy()), self.labels[index]
        y, x, flip = torch.randint(0, 2 * PAD + 1, (3,)).tolist()
        image = F.pad(image, (PAD,) * 4)[:, y : y + SIDE, x : x + SIDE].float().div_(255)
        image = image.flip(2) if flip > PAD else image
        return (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None], self.labels[index]


def torchvision_transform():
    try:
        from torchvision import transforms
    except ImportError:
        return None
    return transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(SIDE, padding=PAD),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


class Augmented:
    """A batch of bytes with crop, flip and normalisation, all at once where it lies."""

    def __init__(self, device):
        # While a graph is recorded nothing can come from the CPU.
        self.mean = torch.tensor(MEAN, device=device)[:, None, None]
        self.std = torch.tensor(STD, device=device)[:, None, None]

    def __call__(self, images):
        n, device = len(images), images.device
        shift = torch.randint(0, 2 * PAD + 1, (2, n, 1), device=device)
        flip = torch.rand(n, 1, device=device) < 0.5
        line = torch.arange(SIDE, device=device)
        rows = (shift[0] + line)[:, None, :, None]
        columns = (shift[1] + torch.where(flip, SIDE - 1 - line, line))[:, None, None, :]
        image, channel = torch.arange(n, device=device), torch.arange(3, device=device)
        padded = F.pad(images, (PAD,) * 4)
        cut = padded[image[:, None, None, None], channel[:, None, None], rows, columns]
        return ((cut.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def dkd(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0):
    """Decoupled distillation: of the target against the others, and among the others."""
    target = labels[:, None] == torch.arange(student.shape[1], device=labels.device)

    def halves(logits):
        p = F.softmax(logits / temperature, 1)
        own = (p * target).sum(1, keepdim=True)
        others = F.log_softmax(logits / temperature - 1000.0 * target, 1)
        return torch.cat([own, 1 - own], 1), others

    (own_s, others_s), (own_t, others_t) = halves(student), halves(teacher)
    tckd = F.kl_div(own_s.clamp_min(1e-12).log(), own_t, reduction="batchmean")
    nckd = F.kl_div(others_s, others_t, reduction="batchmean", log_target=True)
    return (alpha * tckd + beta * nckd) * temperature**2


class Task:
    """A student, and a teacher if there is one, with what a step does."""

    def __init__(self, args, student, teacher, last):
        layout = torch.channels_last if last else torch.contiguous_format

        def network(name):
            layers = json.loads((args.descriptions / f"{name}.json").read_text())["layers"]
            return Network(layers, args.classes, (3, SIDE, SIDE)).to(args.device, memory_format=layout)

        self.student = network(student).train()
        self.parameters = sum(p.numel() for p in self.student.parameters())
        self.teacher = network(teacher).eval().requires_grad_(False) if teacher else None
        fused = {"fused": True} if last and args.device == "cuda" else {}
        parameters = self.student.parameters()
        self.optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4, **fused)

    def loss(self, images, labels):
        logits = self.student(images).float()
        loss = F.cross_entropy(logits, labels)
        if self.teacher is not None:
            with torch.no_grad():
                answers = self.teacher(images).float()
            loss = loss + dkd(logits, answers, labels)
        return loss


def shared_memory():
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return 0


def eager(args, student, teacher, batch):
    task = Task(args, student, teacher, last=False)
    images, labels = args.data
    # Batches that wait are in shared memory, of which a container may have very little.
    waiting = 2 if args.workers * 2 * batch * 3 * SIDE * SIDE * 4 < shared_memory() / 2 else 1
    loader = torch.utils.data.DataLoader(
        Samples(images, labels),
        batch,
        shuffle=True,
        num_workers=args.workers,
        pin_memory=args.device == "cuda",
        drop_last=True,
        persistent_workers=args.workers > 0,
        prefetch_factor=waiting if args.workers > 0 else None,
    )

    def steps():
        while True:
            for images, labels in loader:
                images, labels = images.to(args.device), labels.to(args.device)
                task.optimizer.zero_grad()
                loss = task.loss(images, labels)
                loss.backward()
                task.optimizer.step()
                loss.item()
                yield

    step = steps()
    return measured(args, task, batch, lambda: next(step), warm=args.warm)


def on_device(args, student, teacher, batch, compiled):
    task = Task(args, student, teacher, last=True)
    images, labels = (t.to(args.device) for t in args.data)
    chosen = torch.zeros(batch, dtype=torch.long, device=args.device)
    order = torch.randperm(len(images), device=args.device)
    place = 0

    def choose():
        nonlocal place, order
        if place + batch > len(images):
            order, place = torch.randperm(len(images), device=args.device), 0
        chosen.copy_(order[place : place + batch])
        place += batch

    augmented = Augmented(args.device)

    def whole_loss(images, labels):
        return task.loss(augmented(images), labels)

    loss_function = torch.compile(whole_loss, mode=args.mode) if compiled else whole_loss

    def step():
        # Capturing forbids the cache of weights that were converted.
        with torch.autocast(args.device, torch.bfloat16, cache_enabled=compiled):
            loss = loss_function(images[chosen], labels[chosen])
        loss.backward()
        task.optimizer.step()
        task.optimizer.zero_grad(set_to_none=True)

    if compiled or args.device == "cpu":

        def whole():
            choose()
            torch.compiler.cudagraph_mark_step_begin()
            step()

        return measured(args, task, batch, whole, warm=max(args.warm, 10 if args.device == "cuda" else 1))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            choose()
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay():
        choose()
        graph.replay()

    return measured(args, task, batch, replay, warm=args.warm)


def measured(args, task, batch, step, warm):
    """Images in a second, after some steps that do not count, and the student's parameters."""

    def wait():
        if args.device == "cuda":
            torch.cuda.synchronize()

    for _ in range(warm):
        step()
    wait()
    count, begin = 0, time.perf_counter()
    while count < 1 or time.perf_counter() - begin < args.seconds:
        # Whoever launches without waiting would be far ahead of the device.
        for _ in range(20 if args.device == "cuda" else 1):
            step()
            count += 1
        wait()
    rate = count * batch / (time.perf_counter() - begin)
    return {"images_per_s": rate, "parameters": task.parameters}


VARIANTS = {
    "graph": lambda *of: on_device(*of, compiled=False),
    "eager": eager,
    "compile": lambda *of: on_device(*of, compiled=True),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--descriptions", type=Path, required=True, help="folder with MODEL.json")
    parser.add_argument("--models", required=True, help="networks alone: a,b")
    parser.add_argument("--pair", default="", help="teacher,student of DKD")
    parser.add_argument("--batches", default="64,512")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--mode", default="reduce-overhead", help="of torch.compile; max-autotune takes minutes a network")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--warm", type=int, default=5, help="steps that do not count")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--limit", type=float, default=float("inf"), help="begin nothing later than so many seconds after the start")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    begin = time.monotonic()
    torch.manual_seed(0)
    if args.device == "cuda" and not torch.cuda.is_available():
        why = f"PyTorch {torch.__version__} finds no CUDA device; --device cpu tries this script without one"
        print(f"error: {why}", file=sys.stderr)
        sys.exit(NOTHING)
    if args.device == "cuda":
        torch.backends.cudnn.benchmark = True
        print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}", flush=True)
    images = torch.randint(0, 256, (args.images, 3, SIDE, SIDE), dtype=torch.uint8)
    args.data = images, torch.arange(args.images) % args.classes
    tasks = [(name, None) for name in args.models.split(",")]
    if args.pair:
        teacher, student = args.pair.split(",")
        tasks.append((student, teacher))
    results = json.loads(args.out.read_text())["results"] if args.out and args.out.exists() else []
    # What a lost device has taken with it deserves another process.
    results = [result for result in results if "error" not in result]
    known = {(result["case"], result["batch"], result["variant"]) for result in results}
    left_out = 0
    # A variant after the other: whoever is cut off has all of the first.
    for variant in args.variants.split(","):
        for student, teacher in tasks:
            name = f"dkd {teacher}, {student}" if teacher else student
            for batch in map(int, args.batches.split(",")):
                if (name, batch, variant) in known:
                    continue
                if time.monotonic() - begin > args.limit:
                    left_out += 1
                    continue
                result = {"case": name, "batch": batch, "variant": variant}
                try:
                    result |= VARIANTS[variant](args, student, teacher, batch)
                    print(f"torch   {name}, {batch}, {variant}: {result['images_per_s']:.0f} img/s", flush=True)
                except Exception as error:  # One that fails must not take the others with it.
                    lines = str(error).strip().splitlines() or [type(error).__name__]
                    result["error"] = lines[0]
                    print(f"torch   {name}, {batch}, {variant}: missing: {lines[0]}", flush=True)
                results.append(result)
                if args.out:
                    write(args, results)
                torch.compiler.reset()
    if left_out:
        print(f"torch   {left_out} cases were left out, as it was too late", flush=True)


def write(args, results):
    """All or nothing: whoever cuts this off leaves what was there."""
    whole = {"torch": torch.__version__, "device": args.device, "mode": args.mode, "results": results}
    part = args.out.with_suffix(".part")
    part.write_text(json.dumps(whole, indent=2))
    os.replace(part, args.out)


if __name__ == "__main__":
    main()
