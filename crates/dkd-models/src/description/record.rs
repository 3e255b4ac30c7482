//! From a description to a graph.

use super::Description;
use super::layer::{Layer, Side, Width};
use crate::ModelOptions;
use crate::registry::nearest_of;
use dkd_engine::{Conv2d, Graph, GraphBuilder, Linear, Pool, Shape, ValueId};
use std::collections::HashMap;

/// Most layers.
const MAX_LAYERS: usize = 10_000;

/// Most channels or features of a layer, and the largest window, stride or padding.
const MAX_WIDTH: usize = 1 << 16;
const MAX_SIDE: usize = 1 << 10;

/// Most elements of a value of one image, and of all weights together.
const MAX_ELEMENTS: usize = 1 << 31;

/// The word for as many outputs as there are classes.
pub(super) const CLASSES: &str = "classes";

/// Keys that any layer may have.
const COMMON: [&str; 4] = ["op", "name", "from", "tap"];

/// Every operation with the keys that it may have beside the common ones.
const OPERATIONS: &[(&str, &[&str])] = &[
    ("conv2d", &["out", "kernel", "stride", "padding", "groups", "bias", "init", "bias_init"]),
    ("linear", &["out", "bias", "init", "bias_init"]),
    ("batch_norm", &[]),
    ("relu", &[]),
    ("relu6", &[]),
    ("add", &[]),
    ("concat", &[]),
    ("max_pool2d", &["kernel", "stride", "padding"]),
    ("avg_pool2d", &["kernel", "stride", "padding", "count_include_pad"]),
    ("global_avg_pool", &[]),
    ("flatten", &[]),
    ("dropout", &["p"]),
    ("slice_channels", &["start", "count"]),
    ("channel_shuffle", &["groups"]),
    ("pad_channels", &["before", "after"]),
];

/// What is wrong, in words.
type Outcome<T> = Result<T, String>;

/// Records the graph of a description.
pub(super) fn graph(d: &Description, o: &ModelOptions) -> Outcome<Graph> {
    let (c, h, w) = o.image;
    if let Some([dc, dh, dw]) = d.input
        && (dc, dh, dw) != o.image
    {
        return Err(format!("takes images of {dc}x{dh}x{dw}, not of {c}x{h}x{w}"));
    }
    if d.layers.is_empty() || d.layers.len() > MAX_LAYERS {
        return Err(format!("has {} layers; a network has 1 to {MAX_LAYERS}", d.layers.len()));
    }
    let b = GraphBuilder::new(c, h, w);
    let image = b.input();
    let values = HashMap::from([("input".to_owned(), image)]);
    let mut recorder = Recorder { b, o, values, last: image, weights: 0 };
    for (i, layer) in d.layers.iter().enumerate() {
        recorder.layer(layer).map_err(|problem| format!("{}: {problem}", place(i, layer)))?;
    }
    let output = match &d.output {
        Some(name) => recorder.value(name).map_err(|problem| format!("output: {problem}"))?,
        None => recorder.last,
    };
    let graph = recorder.b.build(output).map_err(|e| e.to_string())?;
    if graph.num_classes() != o.num_classes {
        return Err(format!(
            "has {} outputs for {} classes; the last layer's `out` can be \"{CLASSES}\"",
            graph.num_classes(),
            o.num_classes
        ));
    }
    Ok(graph)
}

/// A layer for messages: its number from 1, and its name.
fn place(index: usize, layer: &Layer) -> String {
    let name = layer.name.as_ref().map_or_else(String::new, |n| format!(" `{n}`"));
    format!("layer {}{name} ({})", index + 1, layer.op)
}

struct Recorder<'a> {
    b: GraphBuilder,
    o: &'a ModelOptions,
    values: HashMap<String, ValueId>,
    last: ValueId,
    weights: usize,
}

impl Recorder<'_> {
    fn layer(&mut self, l: &Layer) -> Outcome<()> {
        check_keys(l)?;
        let inputs = match &l.from {
            Some(names) => names.list().iter().map(|n| self.value(n)).collect::<Outcome<Vec<_>>>()?,
            None => vec![self.last],
        };
        let value = self.operation(l, &inputs)?;
        if self.b.shape(value).elements() > MAX_ELEMENTS {
            return Err(format!("a value of {} elements is too large", self.b.shape(value).elements()));
        }
        for tap in l.tap.iter().flat_map(|t| t.list()) {
            self.b.tap(tap.clone(), value);
        }
        // The builder keeps the first error for the end; here it belongs to this layer.
        if let Some(e) = self.b.error() {
            return Err(e.to_string());
        }
        if let Some(name) = &l.name
            && self.values.insert(name.clone(), value).is_some()
        {
            return Err("a layer of this name exists already".to_owned());
        }
        self.last = value;
        Ok(())
    }

    fn value(&self, name: &str) -> Outcome<ValueId> {
        self.values.get(name).copied().ok_or_else(|| {
            let similar = nearest_of(name, self.values.keys().map(String::as_str));
            let hint = similar.first().map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
            format!("there is no earlier layer called `{name}`{hint}")
        })
    }

    fn operation(&mut self, l: &Layer, inputs: &[ValueId]) -> Outcome<ValueId> {
        if l.op == "concat" {
            return Ok(self.b.concat(inputs));
        }
        if l.op == "add" {
            let [a, b] = inputs[..] else {
                return Err(format!("adds two values, and `from` has {}", inputs.len()));
            };
            return Ok(self.b.add(a, b));
        }
        let [x] = inputs[..] else { return Err(format!("reads one value, and `from` has {}", inputs.len())) };
        let name = || l.name.clone().ok_or("needs a `name`");
        Ok(match l.op.as_str() {
            "conv2d" => self.conv(l, x, name()?)?,
            "linear" => self.linear(l, x, name()?)?,
            "batch_norm" => self.b.batch_norm(x, name()?),
            "relu" => self.b.relu(x),
            "relu6" => self.b.relu6(x),
            "max_pool2d" => {
                let pool = pool(l)?;
                self.b.max_pool(x, pool)
            }
            "avg_pool2d" => {
                let count_include_pad = l.count_include_pad.unwrap_or(true);
                let pool = Pool { count_include_pad, ..pool(l)? };
                self.b.avg_pool(x, pool)
            }
            "global_avg_pool" => self.b.global_avg_pool(x),
            "flatten" => self.b.flatten(x),
            "dropout" => {
                let p = self.o.dropout.or(l.p).ok_or("needs a `p`")?;
                self.b.dropout(x, name()?, p)
            }
            "slice_channels" => {
                let (start, count) = (l.start.ok_or("needs a `start`")?, l.count.ok_or("needs a `count`")?);
                self.b.slice_channels(x, start, count)
            }
            "channel_shuffle" => self.b.channel_shuffle(x, l.groups.ok_or("needs `groups`")?),
            "pad_channels" => {
                let side = |n: Option<usize>| width(n.unwrap_or(0));
                let (before, after) = (side(l.before)?, side(l.after)?);
                self.b.pad_channels(x, before, after)
            }
            other => unreachable!("`{other}` is checked to be one of the operations"),
        })
    }

    fn conv(&mut self, l: &Layer, x: ValueId, name: String) -> Outcome<ValueId> {
        let mut conv = Conv2d::new(name, self.out(l)?, 1);
        conv.kernel = side(l.kernel.ok_or("needs a `kernel`")?, 1)?;
        conv.stride = side(l.stride.unwrap_or(Side::Both(1)), 1)?;
        conv.padding = side(l.padding.unwrap_or(Side::Both(0)), 0)?;
        conv.groups = l.groups.unwrap_or(1);
        conv.bias = l.bias.unwrap_or(false);
        if let Some(init) = l.init {
            conv.weight_init = init.into();
        }
        if let Some(init) = l.bias_init {
            conv.bias_init = init.into();
        }
        let inputs = self.b.shape(x).channels() / conv.groups.max(1);
        self.count([conv.out_channels, inputs, conv.kernel.0, conv.kernel.1])?;
        Ok(self.b.conv2d(x, conv))
    }

    fn linear(&mut self, l: &Layer, x: ValueId, name: String) -> Outcome<ValueId> {
        let mut linear = Linear::new(name, self.out(l)?);
        linear.bias = l.bias.unwrap_or(true);
        if let Some(init) = l.init {
            linear.weight_init = init.into();
        }
        if let Some(init) = l.bias_init {
            linear.bias_init = init.into();
        }
        if let Shape::Vector(inputs) = self.b.shape(x) {
            self.count([linear.out_features, inputs, 1, 1])?;
        }
        Ok(self.b.linear(x, linear))
    }

    /// Counts a layer's weights.
    fn count(&mut self, sizes: [usize; 4]) -> Outcome<()> {
        let own = sizes.iter().try_fold(1_usize, |n, size| n.checked_mul(*size));
        let all = own.and_then(|n| n.checked_add(self.weights)).filter(|n| *n <= MAX_ELEMENTS);
        self.weights = all.ok_or_else(|| format!("more than {MAX_ELEMENTS} weights are too many"))?;
        Ok(())
    }

    fn out(&self, l: &Layer) -> Outcome<usize> {
        match l.out.as_ref().ok_or("needs an `out`")? {
            Width::Number(0) => Err("`out` is 0".to_owned()),
            Width::Number(n) => width(*n),
            Width::Word(word) if word == CLASSES => Ok(self.o.num_classes),
            Width::Word(word) => Err(format!("`out` is {word:?}; it is a number or \"{CLASSES}\"")),
        }
    }
}

fn check_keys(l: &Layer) -> Outcome<()> {
    let Some((_, own)) = OPERATIONS.iter().find(|(op, _)| *op == l.op) else {
        let similar = nearest_of(&l.op, OPERATIONS.iter().map(|(op, _)| *op));
        let hint = similar.first().map_or_else(String::new, |n| format!(", did you mean `{n}`?"));
        let all: Vec<&str> = OPERATIONS.iter().map(|(op, _)| *op).collect();
        return Err(format!("no operation `{}`{hint}; the operations are: {}", l.op, all.join(", ")));
    };
    let Ok(serde_json::Value::Object(keys)) = serde_json::to_value(l) else { return Ok(()) };
    match keys.keys().find(|key| !COMMON.contains(&key.as_str()) && !own.contains(&key.as_str())) {
        Some(key) => {
            let own = if own.is_empty() { "none".to_owned() } else { own.join(", ") };
            Err(format!("has no key `{key}`; its own keys: {own}"))
        }
        None => Ok(()),
    }
}

fn pool(l: &Layer) -> Outcome<Pool> {
    let kernel = side(l.kernel.ok_or("needs a `kernel`")?, 1)?;
    let stride = l.stride.map_or(Ok(kernel), |s| side(s, 1))?;
    let padding = side(l.padding.unwrap_or(Side::Both(0)), 0)?;
    Ok(Pool { kernel, stride, padding, count_include_pad: true })
}

fn width(n: usize) -> Outcome<usize> {
    if n > MAX_WIDTH { Err(format!("{n} channels are more than {MAX_WIDTH}")) } else { Ok(n) }
}

fn side(side: Side, least: usize) -> Outcome<(usize, usize)> {
    let (v, h) = side.pair();
    let fits = |n: usize| (least..=MAX_SIDE).contains(&n);
    if fits(v) && fits(h) {
        Ok((v, h))
    } else {
        Err(format!("a window, stride or padding of {v}x{h} is not between {least} and {MAX_SIDE}"))
    }
}
