//! Descriptions: round trips, mistakes, limits.

use super::*;
use crate::models;
use proptest::prelude::*;

const TINY: &str = r#"
layers = [
    { op = "conv2d", name = "conv1", out = 4, kernel = [3, 1] },
    { op = "relu" },
    { op = "global_avg_pool" },
    { op = "linear", name = "fc", out = "classes" },
]
"#;

fn message(text: &str) -> String {
    let built = Description::from_toml(text, "net.toml").and_then(|d| d.build(&ModelOptions::new(5)));
    built.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn every_model_has_a_description_that_gives_it_back() {
    let options = ModelOptions::new(7);
    for model in models() {
        let graph = model.build(&options).unwrap();
        let description = Description::of(&graph);
        let json = description.to_json();
        let again = Description::from_json(&json, "x").unwrap();
        // Without `assert_eq`, which would print both.
        assert!(again.build(&options).unwrap() == graph, "{}", model.name);
        assert_eq!(again.to_json(), json);
        let toml = toml::to_string(&description).unwrap();
        assert!(
            Description::from_toml(&toml, "x").unwrap().build(&options).unwrap() == graph,
            "{}",
            model.name
        );
    }
}

#[test]
fn options_count() {
    let tiny = Description::from_toml(TINY, "tiny").unwrap();
    for (classes, size) in [(3, (3, 32, 32)), (8, (1, 9, 7))] {
        let options = ModelOptions { image: size, ..ModelOptions::new(classes) };
        let graph = tiny.build(&options).unwrap();
        assert_eq!(graph.num_classes(), classes);
        assert_eq!(graph.input_shape().dims(), [size.0, size.1, size.2]);
    }
    let text = TINY.replacen("layers", "input = [3, 32, 32]\nlayers", 1);
    let fixed = Description::from_toml(&text, "net").unwrap();
    assert!(fixed.build(&ModelOptions::new(3)).is_ok());
    let other = fixed.build(&ModelOptions::new(3).image(3, 28, 28)).unwrap_err().to_string();
    assert!(other.contains("net: takes images of 3x32x32, not of 3x28x28"), "{other}");
}

#[test]
fn what_is_wrong_is_named_with_its_layer() {
    let with = |from: &str, to: &str| message(&TINY.replacen(from, to, 1));
    for (from, to, expected) in [
        ("out = 4", "outs = 4", vec!["net.toml", "unknown field `outs`"]),
        ("\"relu\"", "\"rely\"", vec!["layer 2 (rely)", "did you mean `relu`", "channel_shuffle"]),
        ("\"relu\"", "\"relu\", kernel = 2", vec!["layer 2 (relu): has no key `kernel`", "none"]),
        ("\"relu\"", "\"relu\", from = \"conv\"", vec!["no earlier layer called `conv`", "`conv1`"]),
        ("\"relu\"", "\"relu\", from = [\"input\", \"conv1\"]", vec!["reads one value", "has 2"]),
        ("\"relu\"", "\"add\"", vec!["layer 2 (add): adds two values", "has 1"]),
        ("[3, 1]", "33", vec!["layer 1 `conv1` (conv2d)", "32x32 input is too small"]),
        ("[3, 1]", "[3, 5000]", vec!["3x5000 is not between 1 and 1024"]),
        ("[3, 1]", "0", vec!["0x0 is not between"]),
        ("out = 4", "out = 0", vec!["`out` is 0"]),
        ("out = 4", "out = 100000", vec!["100000 channels are more than 65536"]),
        ("\"classes\"", "\"class\"", vec!["`out` is \"class\""]),
        ("\"classes\"", "4", vec!["4 outputs for 5 classes"]),
        ("name = \"fc\"", "name = \"conv1\"", vec!["layer 4 `conv1` (linear)", "conv1.weight"]),
        ("name = \"fc\", ", "", vec!["layer 4 (linear): needs a `name`"]),
        ("kernel = [3, 1]", "stride = 1", vec!["needs a `kernel`"]),
        ("layers", "output = \"relu\"\nlayers", vec!["output: there is no earlier layer called `relu`"]),
    ] {
        let text = with(from, to);
        assert!(expected.iter().all(|e| text.contains(e)), "{to}: {text}");
    }
    assert!(message("layers = []").contains("1 to 10000"));
    assert!(message("layers = 3").contains("net.toml"));
}

#[test]
fn sizes_cannot_run_away() {
    let layer = |i: usize| format!("{{ op = \"conv2d\", name = \"c{i}\", out = 65536, kernel = 1 }},");
    let text = format!("layers = [{}{}]", layer(0), layer(1));
    assert!(message(&text).contains("weights are too many"), "{}", message(&text));
    let grow = "{ op = \"pad_channels\", after = 65536 },{ op = \"avg_pool2d\", kernel = 1 },".repeat(40);
    assert!(
        message(&format!("layers = [{grow}]")).contains("too large"),
        "{}",
        message(&format!("layers = [{grow}]"))
    );
}

proptest! {
    /// Whatever the text, there is an answer and no panic.
    #[test]
    fn any_keys_have_an_answer(
        op in 0_usize..16, out in 0_usize..9, kernel in 0_usize..5, stride in 0_usize..4,
        padding in 0_usize..4, groups in 0_usize..5, name in prop::option::of("[a-c]"), from in prop::option::of("[a-c]"),
    ) {
        let ops = ["conv2d", "linear", "batch_norm", "relu", "relu6", "add", "concat", "max_pool2d", "avg_pool2d",
            "global_avg_pool", "flatten", "dropout", "slice_channels", "channel_shuffle", "pad_channels", "none"];
        let mut layer = Layer { op: ops[op].to_owned(), name, from: from.map(Names::One), ..Layer::default() };
        if op < 2 { layer.out = Some(Width::Number(out)); }
        if op == 0 || op == 7 || op == 8 {
            (layer.kernel, layer.stride) = (Some(Side::Both(kernel)), Some(Side::Both(stride)));
            layer.padding = Some(Side::Both(padding));
        }
        if op == 0 || op == 13 { layer.groups = Some(groups); }
        if op == 12 { (layer.start, layer.count) = (Some(out), Some(kernel)); }
        let mut tiny = Description::from_toml(TINY, "tiny").unwrap();
        tiny.layers.insert(2, layer);
        let options = ModelOptions::new(3).image(3, 6, 6);
        if let Ok(graph) = tiny.build(&options) {
            prop_assert_eq!(Description::of(&graph).build(&options).unwrap(), graph);
        }
    }
}
