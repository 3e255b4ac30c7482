//! Files that PyTorch wrote (`fixtures/pytorch/make_fixtures.py`), read and fitted.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Tensor};
use dkd_engine::{Conv2d, Graph, GraphBuilder, Linear};
use dkd_models::checkpoint::{Container, Foreign, Metadata, Select, Strictness};
use dkd_models::checkpoint::{fit, read_weights, save_pth};
use std::path::{Path, PathBuf};

const CONTAINERS: [(&str, Container); 2] =
    [("zip", Container::PytorchZip), ("legacy", Container::PytorchLegacy)];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pytorch").join(format!("{name}.pth"))
}

fn read(name: &str, key: Option<&str>) -> Result<Foreign, String> {
    let select = Select { key: key.map(str::to_owned) };
    read_weights(&fixture(name), &select).map_err(|e| e.to_string())
}

/// The network whose weights most of the files hold.
fn graph() -> Graph {
    let mut b = GraphBuilder::new(3, 8, 8);
    let x = b.conv2d(b.input(), Conv2d::new("conv1", 4, 3));
    let x = b.batch_norm(x, "bn1");
    let x = b.relu(x);
    let x = b.global_avg_pool(x);
    let x = b.linear(x, Linear::new("fc", 3));
    b.build(x).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// What the script puts into every tensor of real numbers.
fn expected(elements: usize) -> Vec<f64> {
    (0..elements).map(|k| k as f64 / 8.0 - 1.0).collect()
}

/// Reads a file, fits it strictly, and checks every number; gives the line about it.
fn fits(name: &str, key: Option<&str>) -> String {
    let foreign = read(name, key).unwrap();
    let fitted = fit(&graph(), &foreign, Strictness::Strict).unwrap();
    assert_eq!(fitted.tensors.len(), graph().params().len(), "{name}");
    for spec in graph().params() {
        let tensor = &fitted.tensors[&spec.name];
        assert_eq!((tensor.dims(), tensor.dtype()), (&spec.shape[..], DType::F32), "{name}: {}", spec.name);
        let constant = name.starts_with("strided") && spec.name == "bn1.bias";
        let want = if constant { vec![0.5; 4] } else { expected(spec.elements()) };
        assert_eq!(numbers(tensor), want, "{name}: {}", spec.name);
    }
    fitted.report.summary()
}

#[test]
fn state_dicts_fit_as_they_occur() {
    for (kind, container) in CONTAINERS {
        let of = |name: &str| format!("{name}.{kind}");
        assert_eq!(read(&of("bare"), None).unwrap().container, container);
        assert_eq!(fits(&of("bare"), None), "7 of 7 tensors");
        assert_eq!(
            fits(&of("wrapped"), None),
            "7 of 7 tensors, from `model`, without the prefix `module.`, with `linear` taken as `fc`"
        );
        assert_eq!(
            fits(&of("protocol4"), None),
            "7 of 7 tensors, from `state_dict`, with `classifier.0` taken as `fc`"
        );
        assert_eq!(fits(&of("strided"), None), "7 of 7 tensors");
        assert_eq!(fits(&of("halves"), None), "7 of 7 tensors, from `net`, 1 of them bf16, 6 of them f16");
        assert_eq!(fits(&of("doubles"), None), "7 of 7 tensors, with `head` taken as `fc`, 7 of them f64");
        assert_eq!(fits(&of("nested"), None), "7 of 7 tensors, from `net`");
        assert_eq!(fits(&of("convolution"), None), "7 of 7 tensors, with `classifier` taken as `fc`");
    }
    assert_eq!(fits("deflated.zip", None), "7 of 7 tensors");
    assert_eq!(fits("unchecked.zip", None), "7 of 7 tensors");
}

#[test]
fn everything_beside_the_weights_is_kept_as_text() {
    for (kind, _) in CONTAINERS {
        let metadata = read(&format!("wrapped.{kind}"), None).unwrap().metadata;
        let all: Vec<_> = metadata.iter().collect();
        let want = [
            ("accuracy", "0.75"),
            ("arch", "resnet20"),
            ("best_acc", "69.5"),
            ("big", "1180591620717411303424"),
            ("done", "true"),
            ("epoch", "240"),
            ("steps", "-5"),
        ];
        assert_eq!(all, want);
        assert_eq!(read(&format!("protocol4.{kind}"), None).unwrap().metadata.get("note"), Some("é"));
    }
}

#[test]
fn every_type_and_every_view_is_read() {
    for (kind, _) in CONTAINERS {
        let kinds = read(&format!("kinds.{kind}"), None).unwrap().tensors;
        assert_eq!(kinds.len(), 10);
        for (name, tensor) in &kinds {
            let want = match &name[..] {
                "bool" => vec![0.0, 1.0, 1.0, 1.0, 1.0, 1.0],
                name if name.contains("float") => expected(6),
                _ => (0..6).map(f64::from).collect(),
            };
            assert_eq!((tensor.dims(), numbers(tensor)), (&[2, 3][..], want), "{name}");
        }
        assert_eq!(kinds["bfloat16"].dtype(), DType::BF16);
        let shared = read(&format!("shared.{kind}"), None).unwrap().tensors;
        assert_eq!(numbers(&shared["whole"]), expected(24));
        assert_eq!(numbers(&shared["same"]), expected(24));
        assert_eq!(numbers(&shared["part"]), [-1.0, -0.875, -0.75, -0.625]);
        let window: Vec<f64> = [8, 9, 14, 15].map(|k| f64::from(k) / 8.0 - 1.0).to_vec();
        assert_eq!((shared["window"].dims(), numbers(&shared["window"])), (&[2, 2][..], window));
        assert_eq!((shared["scalar"].dims(), numbers(&shared["scalar"])), (&[][..], vec![0.125]));
        assert_eq!(shared["empty"].dims(), [0]);
        assert_eq!(numbers(&shared["parameter"]), expected(4));
        assert_eq!(numbers(&shared["noted"]), expected(4));
    }
}

#[test]
fn one_network_of_several_is_chosen_by_its_key() {
    for (kind, _) in CONTAINERS {
        let message = read(&format!("two.{kind}"), None).unwrap_err();
        assert!(message.contains("at `state_dict`, `state_dict_ema`; choose one by its key"), "{message}");
        let line = fits(&format!("two.{kind}"), Some("state_dict_ema"));
        assert_eq!(line, "7 of 7 tensors, from `state_dict_ema`");

        // Only one fits.
        let line = fits(&format!("student.{kind}"), None);
        assert_eq!(
            line,
            "7 of 7 tensors, from `model`, without the prefix `module.student.`, 7 of another network left aside"
        );
        // Both do.
        let both = read(&format!("both.{kind}"), None).unwrap();
        let message = fit(&graph(), &both, Strictness::Lenient).unwrap_err().to_string();
        let keys = "`model.module.student` and `model.module.teacher`; choose one by its key";
        assert!(message.contains(keys) && message.contains("both."), "{message}");
        for key in ["model.module.teacher", "module.teacher", "module.teacher."] {
            assert_eq!(
                fits(&format!("both.{kind}"), Some(key)),
                "7 of 7 tensors, from `model.module.teacher`"
            );
        }
        let message = read(&format!("both.{kind}"), Some("model.teacher")).unwrap_err();
        let names = "begins with `teacher.`, but with `module.student`, `module.teacher`";
        assert!(message.contains(names), "{message}");
        let message = read(&format!("wrapped.{kind}"), Some("optimizer")).unwrap_err();
        assert!(message.contains("no tensors in its entry `optimizer`"), "{message}");
        // The whole file, dictionaries and all.
        let whole = read(&format!("two.{kind}"), Some(".")).unwrap();
        assert!(whole.tensors.contains_key("state_dict_ema.fc.bias") && whole.tensors.len() == 16);
    }
}

#[test]
fn pickled_modules_are_refused() {
    for (kind, _) in CONTAINERS {
        for (name, place) in [("module", "the file"), ("holds_module", "its entry `model`")] {
            let message = read(&format!("{name}.{kind}"), None).unwrap_err();
            let class =
                format!("{place} holds a pickled object of the class `torch.nn.modules.linear.Linear`");
            assert!(message.contains(&class) && message.contains(name), "{message}");
            assert!(message.contains("torch.save(model.state_dict(), \"weights.pth\")"), "{message}");
        }
    }
}

#[test]
fn what_is_written_for_pytorch_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.pth");
    for (name, key) in [("bare.zip", ""), ("kinds.legacy", ""), ("shared.zip", "state_dict")] {
        // candle has one type for bool, uint8, and one for int8, int16.
        let before = read(name, None).unwrap();
        let listed: Vec<(String, Tensor)> = before.tensors.clone().into_iter().collect();
        let metadata = match key {
            "" => Metadata::default(),
            _ => Metadata::new("resnet20", 100).with("note", "two\nlines"),
        };
        save_pth(&path, &listed, &metadata).unwrap();
        let after = read_weights(&path, &Select::default()).unwrap();
        assert_eq!((after.container, &after.key[..], after.metadata), (Container::PytorchZip, key, metadata));
        assert_eq!(after.tensors.len(), before.tensors.len());
        for (name, tensor) in &after.tensors {
            let want = &before.tensors[name];
            assert_eq!((tensor.dims(), tensor.dtype()), (want.dims(), want.dtype()), "{name}");
            assert_eq!(numbers(tensor), numbers(want), "{name}");
        }
    }
}

#[test]
fn damaged_files_are_named_and_nothing_panics() {
    for (kind, _) in CONTAINERS {
        let whole = std::fs::read(fixture(&format!("halves.{kind}"))).unwrap();
        let path = Path::new("some/teacher.pth");
        let read = |bytes: &[u8]| {
            dkd_models::checkpoint::weights_from_bytes(bytes, path, &Select::default())
                .map_err(|e| e.to_string())
        };
        assert!(read(&whole).is_ok());
        for length in 0..whole.len() {
            let message = read(&whole[..length]).unwrap_err();
            assert!(message.starts_with("some/teacher.pth: "), "{length}: {message}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            if let Err(message) = read(&bytes) {
                assert!(message.starts_with("some/teacher.pth: "), "{at}: {message}");
            }
        }
    }
}

#[test]
fn a_turned_bit_in_a_zip_file_never_becomes_another_weight() {
    let whole = std::fs::read(fixture("bare.zip")).unwrap();
    let path = Path::new("teacher.pth");
    let select = Select::default();
    let read = |bytes: &[u8]| dkd_models::checkpoint::weights_from_bytes(bytes, path, &select);
    let want = read(&whole).unwrap().tensors;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        for (name, tensor) in read(&bytes).map(|f| f.tensors).unwrap_or_default() {
            assert_eq!(numbers(&tensor), numbers(&want[&name]), "byte {at}: {name}");
        }
    }
}
