"""Networks of PyTorch's own modules from the layers that `dkd inspect MODEL --description` prints."""

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
        self.layer_names = [layer.get("name") for layer in layers]
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
                module = self.module(layer, shapes[inputs[0]], classes)
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
    def module(layer, shape, classes):
        op, get, channels = layer["op"], layer.get, shape[0]
        out = classes if get("out") == "classes" else get("out")
        if op == "conv2d":
            kind = VectorConv2d if len(shape) == 1 else nn.Conv2d
            return kind(
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

    def load(self, tensors):
        """Loads a state dictionary with the layers' names; all of it must be used."""
        left = dict(tensors)
        for name, module in zip(self.layer_names, self.modules_by_index):
            own = module.state_dict()
            new = {key: left.pop(f"{name}.{key}") for key in own if key != "num_batches_tracked"}
            module.load_state_dict(own | new)
        assert not left, f"no layer has {sorted(left)}"

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


class VectorConv2d(nn.Conv2d):
    """Of vectors, which are images of one pixel."""

    def forward(self, x):
        return super().forward(x[:, :, None, None])
