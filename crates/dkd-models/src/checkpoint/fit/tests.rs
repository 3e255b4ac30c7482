//! Fitting: prefixes, classifiers, what does not fit.

use super::*;
use crate::checkpoint::{Container, Metadata};
use candle_core::Device;
use dkd_engine::{Conv2d, GraphBuilder, Linear};
use std::path::PathBuf;

/// Two convolutions and a classifier called `linear`.
fn graph() -> Graph {
    let mut b = GraphBuilder::new(3, 8, 8);
    let x = b.conv2d(b.input(), Conv2d::new("conv1", 4, 3));
    let x = b.batch_norm(x, "bn1");
    let x = b.conv2d(x, Conv2d::new("layer1.0.conv2", 8, 3));
    let x = b.global_avg_pool(x);
    let x = b.linear(x, Linear::new("linear", 10));
    b.build(x).unwrap()
}

fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
}

/// The network's own tensors, under names that `rename` makes.
fn foreign(rename: impl Fn(&str) -> String) -> Foreign {
    let all = graph().params().iter().map(|p| (rename(&p.name), zeros(&p.shape, DType::F32))).collect();
    Foreign {
        path: PathBuf::from("teacher.pth"),
        container: Container::PytorchZip,
        key: String::new(),
        tensors: all,
        metadata: Metadata::default(),
    }
}

fn strict(foreign: &Foreign) -> Result<Fitted> {
    fit(&graph(), foreign, Strictness::Strict)
}

fn table(foreign: &Foreign) -> String {
    let text = strict(foreign).unwrap_err().to_string();
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    text
}

#[test]
fn prefixes_and_classifiers_are_found() {
    let names = ["fc", "linear", "classifier", "classifier.0", "head"];
    for prefix in ["", "module.", "model.", "net.backbone.", "module.student.", "a.b.c.d.e.f."] {
        for name in names {
            let renamed = |own: &str| format!("{prefix}{}", own.replace("linear", name));
            let mut file = foreign(renamed);
            file.tensors.insert(format!("{prefix}bn1.num_batches_tracked"), zeros(&[], DType::I64));
            let fitted = strict(&file).unwrap();
            assert_eq!(
                (fitted.report.prefix.as_str(), fitted.tensors.len()),
                (prefix, graph().params().len())
            );
            assert_eq!(fitted.report.renamed.is_some(), name != "linear");
        }
    }
    // Two names: which one it is, is not guessed.
    let mut file = foreign(|own| own.replace("linear", "fc"));
    file.tensors.insert("head.weight".to_owned(), zeros(&[10, 8], DType::F32));
    assert!(table(&file).contains("missing     linear.weight [10, 8]"));
}

#[test]
fn a_classifier_may_be_a_convolution_but_nothing_else_changes_its_shape() {
    let mut file = foreign(str::to_owned);
    file.tensors.insert("linear.weight".to_owned(), zeros(&[10, 8, 1, 1], DType::BF16));
    let fitted = strict(&file).unwrap();
    assert_eq!(fitted.tensors["linear.weight"].dims(), [10, 8]);
    assert_eq!(fitted.report.converted, [("bf16".to_owned(), 1)]);
    file.tensors.insert("linear.weight".to_owned(), zeros(&[8, 10], DType::F32));
    assert!(
        table(&file).contains("differs     linear.weight\n              expected [10, 8], found [8, 10]")
    );
    file.tensors.insert("linear.weight".to_owned(), zeros(&[10, 8], DType::I64));
    assert!(table(&file).contains("expected [10, 8], found i64 [10, 8]"));
}

#[test]
fn mismatches_are_a_table() {
    let mut file = foreign(|own| format!("module.{}", own.replace("layer1.0.conv2", "layer1.0.conv3")));
    file.tensors.insert("module.linear.bias".to_owned(), zeros(&[100], DType::F32));
    file.tensors.insert("optimizer\u{1b}[2J".to_owned(), zeros(&[1], DType::F32));
    let text = table(&file);
    let want = "\
teacher.pth: the weights do not fit the network
6 of 8 tensors, without the prefix `module.`
  missing     layer1.0.conv2.weight [8, 4, 3, 3]
              nearest: module.layer1.0.conv3.weight
  differs     linear.bias
              expected [10], found [100]
  unexpected  module.layer1.0.conv3.weight [8, 4, 3, 3]
              nearest: layer1.0.conv2.weight
  unexpected  optimizer\\u{1b}[2J [1]";
    assert_eq!(text, want);
    let fitted = fit(&graph(), &file, Strictness::Lenient).unwrap();
    assert_eq!((fitted.tensors.len(), fitted.report.findings.len()), (6, 4));
    // The network's own take the places of those that are missing.
    let own = graph().params().iter().map(|p| (p.name.clone(), zeros(&p.shape, DType::F32))).collect();
    assert_eq!(fitted.over(own).len(), 8);
}

#[test]
fn a_wider_network_is_compared_layer_by_layer() {
    let graph = |width: usize, classes: usize| {
        let mut b = GraphBuilder::new(3, 8, 8);
        let x = b.conv2d(b.input(), Conv2d::new("a.conv", width, 3).padding(1));
        let x = b.conv2d(x, Conv2d::new("b.a.conv", 2 * width, 3).padding(1));
        let x = b.global_avg_pool(x);
        let x = b.linear(x, Linear::new("fc", classes));
        b.build(x).unwrap()
    };
    let mut file = foreign(str::to_owned);
    let narrow = graph(3, 10);
    file.tensors = narrow.params().iter().map(|p| (p.name.clone(), zeros(&p.shape, DType::F32))).collect();
    // The second convolution of one has the shape of the first of the other.
    let message = fit(&graph(6, 20), &file, Strictness::Strict).unwrap_err().to_string();
    let want = "differs     a.conv.weight\n              expected [6, 3, 3, 3], found [3, 3, 3, 3]";
    assert!(message.contains(want) && message.contains("0 of 4 tensors"), "{message}");
}

#[test]
fn tables_end() {
    let long = "block.".repeat(40);
    let mut file = foreign(|own| format!("{long}{own}.x"));
    for i in 0..3000 {
        file.tensors.insert(format!("layer{i}.{long}weight"), zeros(&[1; 30], DType::F32));
    }
    let text = table(&file);
    assert!(text.lines().count() <= 22 && text.ends_with(" more"), "{text}");
    // Nothing at all fits.
    let message = fit(&graph(), &file, Strictness::Lenient).unwrap_err().to_string();
    assert!(message.contains("0 of 8 tensors"), "{message}");
    file.tensors.clear();
    assert!(table(&file).contains("0 of 8 tensors"));
}

#[test]
fn another_network_in_the_file_is_left_aside_only_if_it_is_called_so() {
    let both = |first: &str, second: &str| {
        let mut file = foreign(|own| format!("{first}{own}"));
        let second = foreign(|own| format!("{second}{own}"));
        file.tensors.extend(second.tensors);
        file
    };
    let mut file = both("module.student.", "module.teacher.");
    let message = fit(&graph(), &file, Strictness::Lenient).unwrap_err().to_string();
    assert!(message.contains("`module.student` and `module.teacher`; choose one by its key"), "{message}");
    file.tensors.insert("module.teacher.conv1.weight".to_owned(), zeros(&[1], DType::F32));
    let fitted = strict(&file).unwrap();
    assert_eq!((fitted.report.prefix.as_str(), fitted.report.aside), ("module.student.", 8));
    // Modules of the method beside both.
    file.tensors.insert("module.embed.weight".to_owned(), zeros(&[1], DType::F32));
    assert_eq!(strict(&file).unwrap().report.aside, 9);
    let mut file = both("a.", "b.");
    let message = strict(&file).unwrap_err().to_string();
    assert!(message.contains("`a` and `b`; choose one"), "{message}");
    file.tensors.insert("b.conv1.weight".to_owned(), zeros(&[1], DType::F32));
    assert!(table(&file).contains("unexpected  b.bn1.bias"));
}
