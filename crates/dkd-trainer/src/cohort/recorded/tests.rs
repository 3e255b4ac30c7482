//! Every loss with a kernel against the same loss of candle, where both are finite and where they are not.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use super::terms::Terms;
use crate::RowRecipe;
use crate::config::Config;
use candle_core::{Device, Tensor, Var};
use dkd_kernels::gpu::losses::{Distillation, Losses, Totals, Weights};
use dkd_kernels::gpu::{Element, Emulated, GpuError, Machine, View};
use dkd_losses::{Batch, Draw, Objective, StepDraw, View as Answers, total};

const CLASSES: usize = 10;
const EPOCH: usize = 2;

/// Value, its terms by name, and the gradient.
type Found = (f64, Vec<(String, f64)>, Vec<f32>);

struct Case {
    student: Vec<f32>,
    teacher: Vec<f32>,
    labels: Vec<u32>,
}

fn row(loss: &str) -> RowRecipe {
    let text = format!("student.model = 'resnet8'\nteacher.model = 'resnet8'\nloss = [{loss}]");
    Config::parse(&text, "test").unwrap().check().unwrap().rows.remove(0)
}

fn of_candle(row: &RowRecipe, case: &Case) -> Found {
    let shape = (case.labels.len(), CLASSES);
    let tensor = |values: &[f32]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
    let student = Var::from_tensor(&tensor(&case.student)).unwrap();
    let labels = Tensor::from_slice(&case.labels, shape.0, &Device::Cpu).unwrap();
    let views = [Answers::new(student.as_tensor().clone(), Some(tensor(&case.teacher)))];
    let batch = Batch { epoch: EPOCH, ..Batch::new(&views, &labels) };
    let terms = row.objective().unwrap().terms(&batch).unwrap();
    let value = |t: &Tensor| f64::from(t.to_scalar::<f32>().unwrap());
    let named = terms.iter().map(|t| (t.name.clone(), value(&t.value))).collect();
    let (_, loss) = total(&terms).unwrap().remove(0);
    let gradient = loss.backward().unwrap().get(student.as_tensor()).unwrap().flatten_all().unwrap();
    (value(&loss), named, gradient.to_vec1().unwrap())
}

fn of_kernel(machine: &dyn Machine, row: &RowRecipe, case: &Case) -> Found {
    let terms = Terms::of(row, CLASSES).unwrap();
    let n = case.labels.len();
    let upload = |element: Element, words: Vec<[u8; 4]>| -> View {
        let view = machine.zeros(element, words.len()).unwrap();
        machine.write(&view, words.as_flattened()).unwrap();
        view
    };
    let floats = |v: &[f32]| upload(Element::F32, v.iter().map(|x| x.to_le_bytes()).collect());
    let zeros = |element: Element, n: usize| machine.zeros(element, n).unwrap();
    let (weights, totals) = (zeros(Element::F32, Weights::LEN), zeros(Element::F64, Totals::LEN));
    terms.weights(EPOCH).write(machine, &weights).unwrap();
    let gradient = zeros(Element::F32, n * CLASSES);
    Losses {
        student: &floats(&case.student),
        labels: &upload(Element::U32, case.labels.iter().map(|y| y.to_le_bytes()).collect()),
        weights: &weights,
        distillation: Some(Distillation {
            teacher: &floats(&case.teacher),
            kd: terms.kd(),
            dkd: terms.dkd(),
            standardize: terms.standardize,
        }),
        gradient: &gradient,
        rows: &zeros(Element::F32, n * Losses::COLUMNS),
        totals: &totals,
        bad: &zeros(Element::U32, 1),
    }
    .run(machine)
    .unwrap();
    let (loss, named) = terms.means(&Totals::read(machine, &totals).unwrap(), EPOCH);
    let mut bytes = vec![0; gradient.bytes()];
    machine.read(&gradient, &mut bytes).unwrap();
    let gradient = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (loss, named.into_iter().map(|t| (t.name, t.value)).collect(), gradient)
}

/// Both finite and near each other, or both the same infinity, or both NaN.
fn alike(a: f64, b: f64, tolerance: f64) -> bool {
    if a.is_finite() && b.is_finite() {
        (a - b).abs() <= tolerance * b.abs().max(1.0)
    } else {
        a == b || (a.is_nan() && b.is_nan())
    }
}

#[test]
fn kernels_compute_the_losses_of_candle() {
    let machine = match Emulated::new() {
        Ok(machine) => machine,
        Err(GpuError::NoDevice(why)) => return eprintln!("skipped: kernels cannot be emulated: {why}"),
        Err(e) => panic!("{e}"),
    };
    let labels = vec![3, 0, 9, 5, 5, 1];
    let normal = |step: u64| -> Vec<f32> {
        let draw = StepDraw { seed: 1, step };
        draw.normal("logits", labels.len() * CLASSES).iter().map(|v| 3.0 * v).collect()
    };
    let plain = Case { student: normal(1), teacher: normal(2), labels: labels.clone() };
    // A student that is sure, more and more so, and a teacher that is as sure in the end.
    let ahead = |margin: f32| (0..CLASSES).map(move |j| if j == 4 { margin } else { -0.1 * j as f32 });
    let margins = [80.0, 95.0, 110.0, 300.0, 1200.0, 110.0];
    let sure = margins.map(|margin| Case {
        student: ahead(margin).collect(),
        teacher: ahead(2.0).collect(),
        labels: vec![4],
    });
    let equal = Case { student: ahead(110.0).collect(), teacher: ahead(110.0).collect(), labels: vec![4] };
    for loss in [
        "{ method = 'ce' }, { method = 'kd', temperature = 3.0 }",
        "{ method = 'ce' }, { method = 'kd', temperature = 3.0, reduction = 'mean', standardize = true }",
        "{ method = 'ce', weight = 0.5 }, { method = 'dkd', warmup_epochs = 4 }",
        "{ method = 'tckd', temperature = 2.0 }, { method = 'nckd', temperature = 2.0, weight = 3.0 }",
        "{ method = 'seed_kd', temperature = 5.0, a = 0.3 }",
        "{ method = 'seed_kd', temperature = 1.0, a = 0.5 }, { method = 'dkd' }",
        "{ method = 'dkd_reference', temperature = 1.0, alpha = 1.0, beta = 2.0 }",
        "{ method = 'ce' }, { method = 'dkd_reference', temperature = 4.0, warmup_epochs = 4 }",
        "{ method = 'dkd_reference', temperature = 1.0, alpha = 0.0, beta = 2.0 }",
        "{ method = 'dkd_reference', temperature = 2.0, standardize = true }",
    ] {
        let row = row(loss);
        for case in std::iter::once(&plain).chain(&sure).chain([&equal]) {
            let (value, terms, gradient) = of_kernel(&machine, &row, case);
            let (same_value, same_terms, same_gradient) = of_candle(&row, case);
            let about = || format!("{loss}, {:?}", case.student);
            for ((name, value), (other, same)) in terms.iter().zip(&same_terms) {
                assert_eq!(name, other);
                assert!(alike(*value, *same, 2e-5), "{name} is {value}, not {same}: {}", about());
            }
            assert!(
                terms.len() == same_terms.len() && alike(value, same_value, 2e-5),
                "{value}, not {same_value}: {}",
                about()
            );
            for (g, same) in gradient.iter().zip(&same_gradient) {
                let near = alike(f64::from(*g), f64::from(*same), 2e-5);
                assert!(near, "gradient {gradient:?}, not {same_gradient:?}: {}", about());
            }
        }
    }
}

#[test]
fn every_row_of_the_seeds_tables_has_kernels() {
    let tables = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/tables");
    for name in ["cifar10-seed", "cifar10-fixed", "cifar10-ablation", "cifar100-seed"] {
        let text = std::fs::read_to_string(tables.join(format!("{name}.toml"))).unwrap();
        let recipe = Config::parse(&text, name).unwrap().check().unwrap();
        assert!(recipe.rows.len() > 1);
        for row in &recipe.rows {
            assert!(Terms::of(row, CLASSES).is_ok(), "{name}, {}: {:?}", row.id, Terms::of(row, CLASSES));
        }
    }
}
