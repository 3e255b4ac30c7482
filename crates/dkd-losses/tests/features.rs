//! Losses on feature maps as a trainer uses them: all pairs of networks of the paper's tables, odd inputs, gradients, resuming.
#![allow(clippy::unwrap_used)]
mod support;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use dkd_losses::{
    Batch, Crd, CrdSettings, Draw, Error, Form, Method, Objective, Outputs, StepDraw, View, attention, hcl,
    kdsvd, nst, partial_l2, pkt, relational, similarity, total, vid,
};
use support::{Networks, largest, numbers, scalar};

/// The methods on feature maps.
const METHODS: [&str; 11] =
    ["fitnet", "at", "nst", "pkt", "kdsvd", "ofd", "rkd", "vid", "sp", "crd", "reviewkd"];

type Taps = Vec<(String, Vec<usize>)>;

/// Taps of a network with these stages (channels and size), the stem first, and as many features before the classifier.
fn taps(stages: &[(usize, usize)], pooled: usize, preact: bool) -> Taps {
    let map = |kind: &str, i: usize, (c, size): (usize, usize)| (format!("{kind}.{i}"), vec![c, size, size]);
    let mut all: Taps = stages.iter().enumerate().map(|(i, s)| map("feats", i, *s)).collect();
    if preact {
        all.extend(stages.iter().enumerate().map(|(i, s)| map("preact_feats", i, *s)));
    }
    all.push(("pooled_feat".to_owned(), vec![pooled]));
    all
}

/// The networks of the tables, with a fourth of their channels: shapes are what matters.
fn network(name: &str) -> Taps {
    match name {
        "resnet8x4" | "resnet32x4" => taps(&[(8, 32), (16, 32), (32, 16), (64, 8)], 64, true),
        "resnet56" => taps(&[(4, 32), (4, 32), (8, 16), (16, 8)], 16, true),
        "wrn_40_2" => taps(&[(4, 32), (8, 32), (16, 16), (32, 8)], 32, true),
        "vgg13" => taps(&[(16, 32), (32, 16), (64, 8), (128, 4), (128, 4)], 128, true),
        "ResNet50" => taps(&[(16, 32), (64, 32), (128, 16), (256, 8), (512, 4)], 512, true),
        "MobileNetV2" => taps(&[(4, 16), (3, 16), (4, 8), (12, 4), (40, 2)], 320, false),
        "ShuffleV1" => taps(&[(6, 32), (60, 16), (120, 8), (240, 4)], 240, true),
        "ShuffleV2" => taps(&[(6, 32), (29, 16), (58, 8), (116, 4)], 256, true),
        _ => panic!("{name}"),
    }
}

/// Student and teacher of different shape, as in the paper's two tables.
const PAIRS: [(&str, &str); 8] = [
    ("resnet8x4", "resnet32x4"),
    ("resnet56", "resnet56"),
    ("ShuffleV1", "resnet32x4"),
    ("ShuffleV1", "wrn_40_2"),
    ("MobileNetV2", "vgg13"),
    ("MobileNetV2", "ResNet50"),
    ("ShuffleV2", "resnet32x4"),
    ("vgg13", "ResNet50"),
];

fn borrowed(taps: &Taps) -> Vec<(&str, &[usize])> {
    taps.iter().map(|(name, dims)| (name.as_str(), dims.as_slice())).collect()
}

fn values(dims: &[usize], salt: usize) -> Tensor {
    let n: usize = dims.iter().product();
    let x: Vec<f32> = (0..n).map(|i| ((i * 7919 + salt * 104_729) % 1009) as f32 / 504.5 - 1.0).collect();
    Tensor::from_vec(x, dims, &Device::Cpu).unwrap()
}

/// A pair of networks with outputs for a batch: the student's are variables, channels innermost as the engine's are.
struct Rig {
    networks: Networks,
    views: [View; 1],
    leaves: BTreeMap<String, Var>,
    labels: Tensor,
    indices: Vec<u32>,
    parameters: BTreeMap<String, Tensor>,
}

impl Rig {
    fn new(student: &Taps, teacher: &Taps, rows: usize) -> Self {
        let networks = Networks::new(&borrowed(student), &borrowed(teacher));
        let mut leaves = BTreeMap::new();
        let mut outputs = |taps: &Taps, trained: bool| {
            let mut outputs = Outputs::new(values(&[rows, 10], usize::from(trained)));
            for (i, (name, dims)) in taps.iter().enumerate() {
                let salt = 2 * i + usize::from(trained);
                let laid_out = match dims[..] {
                    [c, h, w] => vec![rows, h, w, c],
                    _ => vec![rows, dims[0]],
                };
                let var = Var::from_tensor(&values(&laid_out, salt)).unwrap();
                let tensor = match dims.len() {
                    3 => var.as_tensor().permute((0, 3, 1, 2)).unwrap(),
                    _ => var.as_tensor().clone(),
                };
                if trained {
                    leaves.insert(name.clone(), var);
                }
                outputs.taps.insert(name.clone(), tensor);
            }
            outputs
        };
        let views = [View { student: outputs(student, true), teacher: Some(outputs(teacher, false)) }];
        let labels: Vec<u32> = (0..rows as u32).map(|i| i % 10).collect();
        let parameters = networks.norms.iter().flat_map(|(tap, norm)| {
            let channels = networks.teacher[tap][0];
            [("weight", 3), ("bias", 4)]
                .map(|(what, salt)| (format!("{norm}.{what}"), values(&[channels], salt)))
        });
        Self {
            parameters: parameters.collect(),
            views,
            leaves,
            labels: Tensor::new(labels.as_slice(), &Device::Cpu).unwrap(),
            indices: (0..rows as u32).collect(),
            networks,
        }
    }

    fn batch<'a>(&'a self, draw: &'a dyn Draw) -> Batch<'a> {
        Batch {
            indices: &self.indices,
            draw,
            teacher: &self.parameters,
            ..Batch::new(&self.views, &self.labels)
        }
    }
}

/// A method for training sets as small as these.
fn method(name: &str) -> Box<dyn Objective> {
    match Method::named(name).unwrap() {
        Method::Crd { settings } => {
            Method::Crd { settings: CrdSettings { negatives: 20, dimension: 8, ..settings } }.build().unwrap()
        }
        method => method.build().unwrap(),
    }
}

const DRAW: StepDraw = StepDraw { seed: 5, step: 0 };

#[test]
fn every_method_works_on_every_pair_or_says_why_not() {
    let mut refused = Vec::new();
    for (student, teacher) in PAIRS {
        let rig = Rig::new(&network(student), &network(teacher), 4);
        for name in METHODS {
            let mut objective = method(name);
            if let Err(e) = rig.networks.prepare(objective.as_mut()) {
                let Error::Networks { reason, .. } = &e else { panic!("{name} {student} {teacher}: {e}") };
                assert!(reason.contains("pixels wide"), "{e}");
                refused.push((name, student, teacher));
                continue;
            }
            let taps = objective.taps();
            assert!(!taps.student.is_empty() && !taps.teacher.is_empty(), "{name}");
            let terms = objective.terms(&rig.batch(&DRAW)).unwrap();
            let sum = total(&terms).unwrap().remove(0).1;
            assert!(scalar(&sum).is_finite() && scalar(&sum) > 0.0, "{name} {student} {teacher}: {sum}");
            let store = sum.backward().unwrap();
            for tap in &taps.student {
                let gradient = numbers(store.get(&rig.leaves[tap]).unwrap_or_else(|| panic!("{name} {tap}")));
                assert!(gradient.iter().all(|g| g.is_finite()), "{name} {student} {teacher} {tap}");
            }
            for (parameter, var) in objective.parameters() {
                assert!(store.get(var.as_tensor()).is_some(), "{name} {parameter}");
            }
        }
    }
    // Stages of other widths, the stem left out.
    let widths = |name: &str| -> Vec<usize> {
        let maps = network(name).into_iter().filter(|(n, _)| n.starts_with("feats."));
        maps.skip(1).map(|(_, dims)| dims[2]).collect()
    };
    let unlike = PAIRS.iter().filter(|(s, t)| widths(s).iter().zip(widths(t)).any(|(s, t)| *s != t));
    let expected: Vec<_> = unlike.map(|(s, t)| ("kdsvd", *s, *t)).collect();
    assert_eq!(refused, expected);
}

#[test]
fn a_step_down_the_gradient_lowers_the_loss() {
    for name in METHODS {
        let rig = Rig::new(&network("resnet8x4"), &network("resnet32x4"), 6);
        let mut objective = method(name);
        rig.networks.prepare(objective.as_mut()).unwrap();
        let value = |objective: &mut Box<dyn Objective>| {
            total(&objective.terms(&rig.batch(&DRAW)).unwrap()).unwrap().remove(0).1
        };
        let before = value(&mut objective);
        let store = before.backward().unwrap();
        let mut trained: Vec<Var> = objective.taps().student.iter().map(|t| rig.leaves[t].clone()).collect();
        trained.extend(objective.parameters().into_iter().map(|(_, v)| v));
        let gradients: Vec<Tensor> = trained.iter().map(|v| store.get(v).unwrap().clone()).collect();
        let square: f64 = gradients.iter().flat_map(numbers).map(|g| g * g).sum();
        // A step of which the slope predicts a thousandth of the loss.
        let rate = 1e-3 * scalar(&before) / square;
        for (var, gradient) in trained.iter().zip(&gradients) {
            var.set(&(var.as_tensor().detach() - (gradient * rate).unwrap()).unwrap()).unwrap();
        }
        // CRD's memory moved in the step before; all other losses depend on nothing else.
        let gained = (scalar(&before) - scalar(&value(&mut objective))) / scalar(&before);
        let range = if name == "crd" { -1.0..1.0 } else { 2e-4..2e-3 };
        assert!(range.contains(&gained), "{name}: {gained} of {}", scalar(&before));
    }
}

/// Central differences in f64 of what has no stored values.
#[test]
fn gradients_are_the_slopes() {
    let wide = |dims: &[usize], salt| values(dims, salt).to_dtype(DType::F64).unwrap();
    let (second_s, second_t) = (wide(&[2, 3, 3, 4], 7), wide(&[2, 2, 3, 4], 8));
    let (teacher, margins) = (wide(&[2, 3, 4, 5], 2), wide(&[3], 3));
    type Loss<'a> = Box<dyn Fn(&Tensor) -> dkd_losses::Result<Tensor> + 'a>;
    let losses: [(&str, Loss); 2] = [
        ("kdsvd", Box::new(|s| kdsvd(&[(s.clone(), teacher.clone()), (second_s.clone(), second_t.clone())]))),
        ("ofd", Box::new(|s| partial_l2(s, &teacher, &margins))),
    ];
    for (name, loss) in losses {
        let x = Var::from_tensor(&wide(&[2, 3, 4, 5], 1)).unwrap();
        let store = loss(x.as_tensor()).unwrap().backward().unwrap();
        let (gradient, base) = (numbers(store.get(&x).unwrap()), numbers(x.as_tensor()));
        assert!(largest(&gradient) > 0.0, "{name}");
        let at = |i: usize, delta: f64| {
            let mut moved = base.clone();
            moved[i] += delta;
            scalar(&loss(&Tensor::from_vec(moved, x.dims(), &Device::Cpu).unwrap()).unwrap())
        };
        for i in 0..base.len() {
            let slope = (at(i, 1e-5) - at(i, -1e-5)) / 2e-5;
            assert!((slope - gradient[i]).abs() < 1e-6 * largest(&gradient).max(1e-3), "{name} {i}");
        }
    }
}

/// Zeros, equal samples, dead channels, one sample, large values: values and gradients stay finite.
#[test]
fn odd_maps_have_finite_losses() {
    type Loss = fn(&Tensor, &Tensor) -> dkd_losses::Result<Tensor>;
    let losses: [(&str, Loss); 8] = [
        ("at", |s, t| attention(s, t, 2)),
        ("at4", |s, t| attention(s, t, 4)),
        ("nst", nst),
        ("sp", similarity),
        ("pkt", pkt),
        ("hcl", hcl),
        ("rkd", |s, t| {
            let parts = relational(s, t, false)?;
            Ok((parts.distance + parts.angle)?)
        }),
        ("kdsvd", |s, t| kdsvd(&[(s.clone(), t.clone()), (s.clone(), t.clone())])),
    ];
    let zeros = |rows: usize| Tensor::zeros((rows, 3, 4, 4), DType::F32, &Device::Cpu).unwrap();
    let normal = |rows: usize| values(&[rows, 3, 4, 4], 5);
    let dead = |rows: usize| {
        (normal(rows)
            * Tensor::new(&[[[[1_f32]], [[0.0]], [[1.0]]]], &Device::Cpu)
                .unwrap()
                .broadcast_as((rows, 3, 4, 4))
                .unwrap())
        .unwrap()
    };
    let equal = |rows: usize| normal(1).broadcast_as((rows, 3, 4, 4)).unwrap().contiguous().unwrap();
    let large = |rows: usize| (normal(rows) * 1e6).unwrap();
    for rows in [1, 4] {
        let maps = [zeros(rows), normal(rows), dead(rows), equal(rows), large(rows)];
        for (name, loss) in losses {
            for (i, student) in maps.iter().enumerate() {
                for (j, teacher) in maps.iter().enumerate() {
                    // The fourth power of a large map's values leaves f32's range.
                    if name == "at4" && (i == 4 || j == 4) {
                        continue;
                    }
                    let var = Var::from_tensor(student).unwrap();
                    let value = loss(var.as_tensor(), teacher).unwrap();
                    let store = value.backward().unwrap();
                    let gradient = store.get(&var).map(numbers).unwrap_or_default();
                    let finite = scalar(&value).is_finite() && gradient.iter().all(|g| g.is_finite());
                    assert!(finite, "{name}, {rows} samples, maps {i} and {j}: {value}");
                    if i == j {
                        assert!(
                            scalar(&value).abs() < 1e-5 * if name == "hcl" { 1e6 } else { 1.0 },
                            "{name}"
                        );
                    }
                }
            }
        }
    }
    let scale = Tensor::new(&[-200_f32, 0.0, 200.0], &Device::Cpu).unwrap();
    assert!(scalar(&vid(&normal(2), &zeros(2), &scale).unwrap()).is_finite());
}

#[test]
fn crd_goes_on_from_its_buffers() {
    let rig = Rig::new(&network("resnet8x4"), &network("resnet32x4"), 6);
    let make = || {
        let mut crd =
            Crd::new(CrdSettings { negatives: 20, dimension: 8, ..CrdSettings::default() }).unwrap();
        rig.networks.prepare(&mut crd).unwrap();
        crd
    };
    let step = |crd: &mut Crd, step: u64| {
        let draw = StepDraw { seed: 5, step };
        scalar(&crd.terms(&rig.batch(&draw)).unwrap().remove(0).value)
    };
    let (mut whole, mut first, mut second) = (make(), make(), make());
    let losses: Vec<f64> = (0..4).map(|i| step(&mut whole, i)).collect();
    assert!(losses.windows(2).all(|w| w[0] != w[1]), "memories move: {losses:?}");
    assert_eq!([step(&mut first, 0), step(&mut first, 1)], losses[..2]);
    let buffers: Vec<_> = first.buffers().into_iter().map(|(n, t)| (n, t.copy().unwrap())).collect();
    // What the first run does after that is no business of the second.
    step(&mut first, 9);
    for (name, value) in &buffers {
        second.set_buffer(name, value).unwrap();
    }
    assert_eq!([step(&mut second, 2), step(&mut second, 3)], losses[2..]);
    let (name, rows) = &second.buffers()[0];
    assert_eq!((name.as_str(), rows.dims()), ("memory_student", &[40, 8][..]));
    let norms = numbers(&rows.narrow(0, 0, 6).unwrap().sqr().unwrap().sum(1).unwrap());
    assert!(norms.iter().all(|n| (n - 1.0).abs() < 1e-5), "{norms:?}");
    assert!(
        second
            .set_buffer("memory_student", &Tensor::zeros((2, 8), DType::F32, &Device::Cpu).unwrap())
            .is_err()
    );
    assert!(matches!(second.set_buffer("x", rows), Err(Error::UnknownBuffer { .. })));
}

#[test]
fn variances_are_learned_in_the_papers_form_only() {
    for (form, learned) in [(Form::Paper, true), (Form::Reference, false)] {
        let rig = Rig::new(&network("resnet56"), &network("resnet56"), 2);
        let mut vid = Method::Vid { form }.build().unwrap();
        rig.networks.prepare(vid.as_mut()).unwrap();
        assert_eq!(vid.parameters().iter().any(|(name, _)| name == "0.log_scale"), learned);
        assert_eq!(vid.parameters().iter().filter(|(name, _)| name.contains("conv")).count(), 9);
    }
}

#[test]
fn what_is_missing_is_named() {
    let bare = Networks::new(&[], &[("pooled_feat", &[8])]);
    for name in METHODS {
        let mut objective = method(name);
        let message = bare.prepare(objective.as_mut()).unwrap_err().to_string();
        assert!(
            message.contains("the student has no tap") || message.contains("the teacher has no tap"),
            "{message}"
        );
        let rig = Rig::new(&network("resnet56"), &network("resnet56"), 2);
        let message = objective.terms(&rig.batch(&DRAW)).unwrap_err().to_string();
        assert!(message.contains("not prepared"), "{name}: {message}");
    }
    let mut ofd = method("ofd");
    let mut networks = Rig::new(&network("resnet56"), &network("resnet56"), 2).networks;
    networks.norms.clear();
    assert!(networks.prepare(ofd.as_mut()).unwrap_err().to_string().contains("batch norm"));
    let mut crd = method("crd");
    networks.labels = vec![3; 40];
    assert!(networks.prepare(crd.as_mut()).unwrap_err().to_string().contains("one class"));
}
