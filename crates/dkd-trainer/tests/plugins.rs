//! Losses and networks from outside, named in a configuration.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Module, ModuleT, Tensor};
use candle_nn::{Linear, VarBuilder, VarMap};
use dkd_datasets::synthetic;
use dkd_kernels::Cpu;
use dkd_losses::{Batch, register_loss};
use dkd_trainer::config::Config;
use dkd_trainer::record::RowResult;
use dkd_trainer::{CandleNetwork, Context, Network, NetworkOptions, Result, Silent, register_network, run};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// One layer on the pixels of the image, averaged over windows of 8x8.
struct Tiny(Linear);

impl ModuleT for Tiny {
    fn forward_t(&self, x: &Tensor, _: bool) -> candle_core::Result<Tensor> {
        self.0.forward(&x.avg_pool2d(8)?.flatten_from(1)?)
    }
}

fn tiny(o: &NetworkOptions) -> Result<Box<dyn Network>> {
    let variables = VarMap::new();
    let builder = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let inputs = o.image.0 * (o.image.1 / 8) * (o.image.2 / 8);
    let network = Tiny(candle_nn::linear(inputs, o.num_classes, builder.pp("fc"))?);
    // The run's seed, not candle's own generator, decides the weights.
    let stream = dkd_kernels::rng::Stream::new(o.seed, dkd_kernels::rng::Purpose::Other, 0, 0);
    for (name, var) in variables.data().lock().unwrap().iter() {
        let offset = if name.ends_with("bias") { 1 << 20 } else { 0 };
        let values: Vec<f32> =
            (0..var.elem_count() as u64).map(|i| 0.1 * (stream.uniform(offset + i) - 0.5)).collect();
        var.set(&Tensor::from_vec(values, var.dims(), &Device::Cpu)?)?;
    }
    Ok(Box::new(CandleNetwork::new(network, &variables)?))
}

fn squares(batch: &Batch) -> dkd_losses::Result<Tensor> {
    let (student, teacher) = (batch.student_logits()?, batch.teacher_logits("squares")?);
    Ok((student - teacher.detach())?.sqr()?.mean_all()?)
}

fn train(config: &str, weights: Option<&Path>) -> Result<Vec<RowResult>> {
    let recipe = Config::parse(config, "test")?.check()?;
    let data = synthetic::generate(&synthetic::Options { train: 320, test: 100, seed: 1 });
    let mut context = Context {
        compute: Cpu::new(2)?.into(),
        sink: &mut Silent,
        weights: weights.map(Path::to_owned),
        host: None,
        last: None,
        stop: &AtomicBool::new(false),
        checkpoints: None,
        resume: None,
        probe: None,
    };
    run(&recipe, &data, recipe.train.seed, &mut context)
}

/// One test: what is registered is there for the whole process.
#[test]
fn a_configuration_names_losses_and_networks_from_outside() {
    let config = |student: &str, teacher: &str, loss: &str| {
        format!(
            "data.dataset = 'synthetic'
            train = {{ epochs = 3, batch_size = 32 }}
            optimizer = {{ lr = 0.02, momentum = 0.9 }}
            student.model = '{student}'
            teacher = {{ model = '{teacher}', epochs = 2 }}
            loss = [{{ method = 'ce' }}, {loss}]"
        )
    };
    let ours = config("tiny", "resnet8", "{ method = 'squares', weight = 0.1, warmup_epochs = 2 }");
    let message = train(&ours, None).unwrap_err().to_string();
    assert!(message.contains("squares") || message.contains("tiny"), "{message}");

    register_network("tiny", tiny).unwrap();
    register_loss("squares", squares).unwrap();
    for taken in ["tiny", "resnet20"] {
        assert!(register_network(taken, tiny).unwrap_err().to_string().contains(taken));
    }
    let folder = tempfile::tempdir().unwrap();
    let results = train(&ours, Some(folder.path())).unwrap();
    let run = results.last().unwrap();
    assert_eq!(
        (run.model.as_str(), run.setting.as_str()),
        ("tiny", "CE + 0.1 x squares with 2 epochs of warm-up")
    );
    assert!(run.epochs[2].train_loss < run.epochs[0].train_loss, "{:?}", run.epochs);
    assert!(run.last.unwrap() > 15.0, "{:?}", run.last);
    let again = train(&ours, None).unwrap();
    assert_eq!(again.last().unwrap().epochs, run.epochs);

    // As a teacher, trained first and then read from a file.
    let taught = config("resnet8", "tiny", "{ method = 'kd' }");
    let own = folder.path().join("own");
    let first = train(&taught, Some(&own)).unwrap();
    assert_eq!(first.iter().map(|r| r.row.as_str()).collect::<Vec<_>>(), ["teacher", "run"]);
    let file = own.join("teacher-0.safetensors");
    let given = format!("{taught}\nteacher.weights = '{}'", file.display()).replace(
        "teacher = { model = 'tiny', epochs = 2 }",
        "teacher.model = 'tiny'\n            teacher.epochs = 2",
    );
    assert_eq!(train(&given, None).unwrap()[0].epochs, first[1].epochs);

    // It has no taps.
    let maps = config("tiny", "resnet8", "{ method = 'at' }");
    let message = train(&maps, None).unwrap_err().to_string();
    assert!(message.contains("feats") || message.contains("taps"), "{message}");
}
