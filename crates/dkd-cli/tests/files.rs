//! Files of weights and networks: in, out, and what is in them.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn run(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output =
        Command::new(assert_cmd::cargo::cargo_bin!("dkd")).args(args).current_dir(folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn good(folder: &Path, args: &[&str]) -> String {
    let (code, out, err) = run(folder, args);
    assert_eq!(code, 0, "{args:?}: {out}{err}");
    out
}

fn refused(folder: &Path, args: &[&str], expected: &[&str]) {
    let (code, out, err) = run(folder, args);
    assert!(code != 0 && expected.iter().all(|e| err.contains(e)), "{args:?}: {code} {out}{err}");
}

/// A folder with a resnet8 that has seen a few images.
fn trained() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let limits =
        ["--set", "data.train_limit=64", "--set", "data.test_limit=32", "--set", "train.batch_size=16"];
    let mut args =
        vec!["train", "--model", "resnet8", "--data", "synthetic", "--epochs", "1", "--out", "run"];
    args.extend(limits);
    good(folder.path(), &args);
    folder
}

#[test]
fn weights_go_out_and_come_back() {
    let folder = trained();
    let root = folder.path();
    let own = "run/last.safetensors";
    let eval = |weights: &str, more: &[&str]| -> Value {
        let args = [&["eval", "--weights", weights, "--data", "synthetic", "--json"][..], more].concat();
        serde_json::from_str(&good(root, &args)).unwrap()
    };
    let mut before = eval(own, &[]);
    before["images_per_s"] = Value::Null;
    assert_eq!(before["classes"].as_array().map(Vec::len), Some(10), "{before}");
    assert!(
        before["calibration_error"].as_f64() > Some(0.0) && before["normalization"]["mean"][2].is_number()
    );
    let images: u64 = before["classes"].as_array().unwrap().iter().filter_map(|c| c["images"].as_u64()).sum();
    assert_eq!(Some(images), before["images"].as_u64());
    for out in ["copy.safetensors", "copy.pth", "same.pt"] {
        assert!(good(root, &["export", "--weights", own, "--out", out]).contains("resnet8, 10 classes"));
        let mut after = eval(out, &[]);
        after["images_per_s"] = Value::Null;
        assert_eq!(after, before, "{out}");
    }
    // The same twice: nothing of the time or the place is in it.
    good(root, &["export", "--weights", "copy.pth", "--out", "again.pth"]);
    assert!(std::fs::read(root.join("copy.pth")).unwrap() == std::fs::read(root.join("again.pth")).unwrap());
    let text = good(root, &["eval", "--weights", "copy.pth", "--data", "synthetic"]);
    assert!(text.contains("calibration error") && text.contains("precision"), "{text}");
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");

    good(root, &["export", "--weights", own, "--out", "net.onnx", "--fold-batch-norm", "--normalize"]);
    let onnx = std::fs::read(root.join("net.onnx")).unwrap();
    let has = |word: &str| onnx.windows(word.len()).any(|w| w == word.as_bytes());
    assert!(
        has("images") && has("logits") && has("fc.weight") && has("pixels") && !has("BatchNormalization")
    );

    refused(root, &["export", "--weights", own, "--out", "net.bin"], &["net.bin", "--format"]);
    refused(root, &["export", "--weights", own, "--out", "a.pth", "--normalize"], &["ONNX"]);
    std::fs::write(root.join("two"), "cat\ndog\n").unwrap();
    refused(
        root,
        &["export", "--weights", own, "--out", "a.onnx", "--labels", "two"],
        &["2 labels for 10 classes"],
    );
    refused(
        root,
        &["eval", "--weights", own, "--model", "resnet14", "--data", "synthetic"],
        &["missing", "layer1.1.", "they fit resnet8 (10 classes)"],
    );
    let (code, _, err) =
        run(root, &["eval", "--weights", own, "--model", "resnet14", "--data", "synthetic", "--lenient"]);
    assert!(code == 0 && err.contains("missing") && err.contains("untrained"), "{err}");
    std::fs::write(root.join("page.pth"), "<!DOCTYPE html><html>").unwrap();
    refused(root, &["inspect", "page.pth"], &["page.pth", "HTML"]);
}

#[test]
fn files_are_looked_into() {
    let folder = trained();
    let root = folder.path();
    let own = "run/last.safetensors";
    good(root, &["export", "--weights", own, "--out", "copy.pth"]);
    let text = good(root, &["inspect", "copy.pth"]);
    for expected in [
        "PyTorch, zip",
        "fits resnet8 (10 classes)",
        "layer3.0.downsample.0.weight",
        "64x32x1x1",
        "model: resnet8",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    let known: Value = serde_json::from_str(&good(root, &["inspect", own, "--json"])).unwrap();
    assert_eq!((&known["fits"][0]["model"], &known["container"]), (&"resnet8".into(), &"safetensors".into()));
    assert_eq!(known["metadata"]["image"], "3x32x32");

    let description = good(root, &["inspect", "ShuffleV2", "--description", "--classes", "7"]);
    std::fs::write(root.join("mine.json"), &description).unwrap();
    let by = |model: &str| -> Value {
        serde_json::from_str(&good(root, &["inspect", model, "--json", "--classes", "7"])).unwrap()
    };
    let (mut mine, mut listed) = (by("mine.json"), by("ShuffleV2"));
    (mine["model"], listed["model"]) = (Value::Null, Value::Null);
    assert_eq!(mine, listed);
    std::fs::write(root.join("bad.json"), description.replacen("\"concat\"", "\"concats\"", 1)).unwrap();
    refused(root, &["inspect", "bad.json"], &["bad.json", "(concats)", "did you mean `concat`"]);
    refused(root, &["inspect", "none.json"], &["none.json"]);
    refused(root, &["inspect", "resnet8", "--image", "3x32"], &["3x32x32"]);
}

#[test]
fn images_are_classified() {
    let folder = trained();
    let root = folder.path();
    for (name, size) in [("a.png", 32), ("b.jpg", 50), ("c.webp", 17)] {
        image::RgbImage::from_fn(size, size, |x, y| image::Rgb([x as u8 * 5, y as u8 * 5, 90]))
            .save(root.join(name))
            .unwrap();
    }
    let args = ["classify", "a.png", "b.jpg", "c.webp", "--weights", "run/last.safetensors"];
    let text = good(root, &args);
    assert_eq!(text.lines().filter(|l| l.ends_with('%')).count(), 15, "{text}");
    let json: Value =
        serde_json::from_str(&good(root, &[&args[..], &["--json", "--top", "10"]].concat())).unwrap();
    for image in json.as_array().unwrap() {
        let sum: f64 =
            image["top"].as_array().unwrap().iter().filter_map(|a| a["probability"].as_f64()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{image}");
    }
    std::fs::write(root.join("text.png"), "no image").unwrap();
    refused(root, &["classify", "text.png", "--weights", "run/last.safetensors"], &["text.png", "PNG"]);
}

#[test]
fn steps_are_profiled() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["bench", "--model", "resnet8", "--batch", "4", "--seconds", "0.1", "--profile"];
    let text = good(folder.path(), &args);
    assert!(text.contains("batch_norm + add + relu") && text.contains("layer1.0.conv2"), "{text}");
    assert!(text.lines().all(|l| l.chars().count() <= 110), "{text}");
    let json: Value = serde_json::from_str(&good(folder.path(), &[&args[..], &["--json"]].concat())).unwrap();
    let share: f64 = json["profile"].as_array().unwrap().iter().filter_map(|s| s["share"].as_f64()).sum();
    assert!(share > 0.0 && share < 1.05, "{share}");
}

#[test]
fn a_folder_of_images_is_a_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (class, colour) in [("blue", [0, 0, 220]), ("red", [220, 0, 0])] {
        for (split, count) in [("train", 24), ("test", 8)] {
            let place = root.join("pets").join(split).join(class);
            std::fs::create_dir_all(&place).unwrap();
            for i in 0..count {
                let shade =
                    |x: u32, y: u32| image::Rgb(colour.map(|c| c + ((7 * x + 11 * y + i) % 30) as u8));
                image::RgbImage::from_fn(20, 16, shade).save(place.join(format!("{i:02}.png"))).unwrap();
            }
        }
    }
    let own = ["--dataset", "folder", "--data", "pets"];
    let with = |args: &[&'static str]| [args, &own[..]].concat();
    let info = good(root, &with(&["data", "info"]));
    assert!(info.contains("48 training and 16 test images of 16x20, 2 classes (blue, red)"), "{info}");
    refused(root, &["data", "info", "--dataset", "folder"], &["--data DIR"]);
    let sized = ["--set", "data.image_size=32", "--set", "train.batch_size=8", "--set", "optimizer.lr=0.05"];
    let train = with(&["train", "--model", "resnet8", "--epochs", "3", "--out", "run"]);
    good(root, &[&train[..], &sized[..]].concat());
    let weights = ["eval", "--weights", "run/last.safetensors", "--json"];
    let result: Value = serde_json::from_str(&good(root, &with(&weights))).unwrap();
    assert_eq!((result["images"].as_u64(), result["top1"].as_f64()), (Some(16), Some(100.0)), "{result}");
    let inspected = good(root, &["inspect", "run/last.safetensors"]);
    assert!(inspected.contains("blue") && inspected.contains("\"epochs\":3"), "{inspected}");
    refused(
        root,
        &with(&["train", "--model", "resnet8", "--set", "data.image_size=a"]),
        &["image_size", "HEIGHTxWIDTH"],
    );
    std::fs::write(root.join("pets/train/red/99.png"), "no image").unwrap();
    refused(root, &with(&["data", "info"]), &["99.png", "no PNG, JPEG or WebP"]);
}
