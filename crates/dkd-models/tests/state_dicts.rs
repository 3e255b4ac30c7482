//! Parameters, taps and costs of every model against the PyTorch networks they stand for.
//!
//! The fixtures list the state dictionaries of the reference networks: name, shape and kind of every tensor in order,
//! without the `num_batches_tracked` counters, which a graph does not have.
#![allow(clippy::unwrap_used)]

use dkd_engine::{Graph, Init, ParamKind};
use dkd_models::{ModelOptions, build, names};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Reference {
    num_classes: usize,
    #[serde(default = "rgb_of_32")]
    image: [usize; 3],
    parameters: usize,
    macs: usize,
    feats: Vec<Vec<usize>>,
    preact_feats: Option<Vec<Vec<usize>>>,
    pooled_feat: Vec<usize>,
    entries: Vec<(String, Vec<usize>, String)>,
}

fn rgb_of_32() -> [usize; 3] {
    [3, 32, 32]
}

/// Models without a reference of this kind.
fn is_listed(model: &str) -> bool {
    !model.ends_with("_a") && !model.starts_with("ShuffleV2_")
}

fn listed() -> impl Iterator<Item = &'static str> {
    names().filter(|name| is_listed(name))
}

/// The fixture of a model; a variant that differs in its output only shares its original's.
fn reference(model: &str) -> Reference {
    let file = match model {
        "seed_student_linear" => "seed_student",
        other => other,
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/state_dicts/{file}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn graph(model: &str) -> Graph {
    if !is_listed(model) {
        return build(model, &ModelOptions::new(10)).unwrap();
    }
    let Reference { num_classes, image: [c, h, w], .. } = reference(model);
    build(model, &ModelOptions::new(num_classes).image(c, h, w)).unwrap()
}

#[test]
fn names_shapes_and_kinds() {
    for model in listed() {
        let graph = graph(model);
        let got: Vec<_> = graph
            .params()
            .iter()
            .map(|p| {
                let kind = if p.kind == ParamKind::Trainable { "parameter" } else { "buffer" };
                (p.name.clone(), p.shape.clone(), kind.to_owned())
            })
            .collect();
        let want = reference(model).entries;
        assert_eq!(got.len(), want.len(), "{model}");
        got.iter().zip(&want).for_each(|(g, w)| assert_eq!(g, w, "{model}"));
    }
}

#[test]
fn parameter_counts_and_costs() {
    for model in listed() {
        let (graph, want) = (graph(model), reference(model));
        assert_eq!((graph.num_parameters(), graph.macs()), (want.parameters, want.macs), "{model}");
    }
    assert_eq!(graph("seed_teacher").num_parameters(), 2_790_954);
    assert_eq!(graph("seed_student").num_parameters(), 711_802);
    assert_eq!(graph("resnet20").macs(), 40_818_944);
    // As akamaster's page has them, rounded: 0.27, 0.46, 0.66, 0.85 and 1.7 million; shortcuts without weights.
    for (model, parameters) in [
        ("resnet20_a", 269_722),
        ("resnet32_a", 464_154),
        ("resnet44_a", 658_586),
        ("resnet56_a", 853_018),
        ("resnet110_a", 1_727_962),
    ] {
        assert_eq!(graph(model).num_parameters(), parameters, "{model}");
    }
    assert_eq!(graph("resnet8x4").macs(), 177_071_104);
}

#[test]
fn taps_have_the_shapes_of_the_reference() {
    for model in listed() {
        let (graph, want) = (graph(model), reference(model));
        let mut expected = vec![("pooled_feat".to_owned(), want.pooled_feat)];
        let lists = [("feats", want.feats), ("preact_feats", want.preact_feats.unwrap_or_default())];
        for (list, shapes) in lists {
            let named = shapes.into_iter().enumerate().map(|(i, s)| (format!("{list}.{i}"), s));
            expected.extend(named);
        }
        let mut got: Vec<_> = graph.taps().iter().map(|t| (t.name.clone(), t.shape.dims())).collect();
        got.sort();
        expected.sort();
        assert_eq!(got, expected, "{model}");
    }
}

#[test]
fn sizes_of_shufflenet_v2_differ_in_channels_and_units() {
    for (size, channels, pooled, blocks) in [
        ("0.2", [40, 80, 160], 512, 3),
        ("0.3", [40, 80, 160], 512, 7),
        ("0.5", [48, 96, 192], 1024, 7),
        ("1.5", [176, 352, 704], 1024, 7),
        ("2.0", [224, 488, 976], 2048, 7),
    ] {
        let graph = graph(&format!("ShuffleV2_{size}"));
        for (i, c) in channels.into_iter().enumerate() {
            let side = 16 >> i;
            assert_eq!(graph.tap(&format!("feats.{}", i + 1)).unwrap().shape.dims(), [c, side, side]);
            assert_eq!(graph.tap(&format!("preact_feats.{}", i + 1)).unwrap().shape.dims(), [c, side, side]);
        }
        assert_eq!(graph.tap("pooled_feat").unwrap().shape.dims(), [pooled]);
        let has = |name: String| graph.params().iter().any(|p| p.name == name);
        assert!(
            has(format!("layer2.{blocks}.conv3.weight"))
                && !has(format!("layer2.{}.conv1.weight", blocks + 1))
        );
        assert!(has("layer3.3.bn3.weight".to_owned()) && !has("layer3.4.bn1.weight".to_owned()));
    }
}

/// Largest absolute value, mean and standard deviation.
fn moments(values: &[f32]) -> (f32, f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    (values.iter().fold(0.0, |m, v| v.abs().max(m)), mean, variance.sqrt())
}

#[test]
fn initial_values_have_the_spread_of_their_rule() {
    for model in names() {
        for p in graph(model).params() {
            let values = p.initial_values(3);
            assert_eq!(values, p.initial_values(3), "{model} {}", p.name);
            let (largest, mean, std) = moments(&values);
            let expected = match p.init {
                Init::Constant(c) => {
                    assert!(values.iter().all(|v| *v == c));
                    continue;
                }
                Init::FanInUniform => {
                    let bound = 1.0 / (p.fan_in as f32).sqrt();
                    assert!(largest <= bound, "{model} {}", p.name);
                    f64::from(bound) / 3_f64.sqrt()
                }
                Init::KaimingFanOut => {
                    (2.0 / (p.shape[2..].iter().product::<usize>() * p.shape[0]) as f64).sqrt()
                }
                Init::Normal(std) => f64::from(std),
            };
            assert_ne!(values, p.initial_values(4), "{model} {}", p.name);
            // Five standard errors of the mean and (for a normal distribution) of the standard deviation.
            let error = 5.0 * expected / (values.len() as f64).sqrt();
            assert!(mean.abs() < error && (std - expected).abs() < error, "{model} {}: {mean} {std}", p.name);
        }
    }
}

#[test]
fn each_family_uses_the_initialisation_of_its_reference() {
    let rule = |model: &str, name: &str| {
        let graph = graph(model);
        let p = graph.params().iter().find(|p| p.name == name).unwrap();
        (p.init, p.fan_in)
    };
    assert_eq!(rule("resnet20", "layer2.0.conv1.weight").0, Init::KaimingFanOut);
    assert_eq!(rule("resnet20", "layer2.0.downsample.0.weight").0, Init::KaimingFanOut);
    assert_eq!(rule("resnet20", "fc.bias"), (Init::FanInUniform, 64));
    assert_eq!(rule("resnet20", "bn1.weight").0, Init::Constant(1.0));
    assert_eq!(rule("wrn_16_2", "block2.layer.0.convShortcut.weight").0, Init::KaimingFanOut);
    assert_eq!(rule("wrn_16_2", "fc.bias").0, Init::Constant(0.0));
    assert_eq!(rule("vgg8", "block1.0.bias").0, Init::Constant(0.0));
    assert_eq!(rule("vgg8", "classifier.weight").0, Init::Normal(0.01));
    assert_eq!(rule("MobileNetV2", "blocks.1.0.conv.3.weight").0, Init::KaimingFanOut);
    assert_eq!(rule("ShuffleV1", "layer1.0.conv2.weight"), (Init::FanInUniform, 9));
    assert_eq!(rule("ShuffleV2", "linear.weight"), (Init::FanInUniform, 1024));
    assert_eq!(rule("seed_teacher", "conv2.bias"), (Init::FanInUniform, 288));
    assert_eq!(rule("seed_student", "dense1.weight"), (Init::FanInUniform, 43264));
}
