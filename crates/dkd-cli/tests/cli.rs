//! The real program, as a user meets it.
#![allow(clippy::unwrap_used)]

use assert_cmd::Command;
use std::path::Path;

fn dkd(folder: &Path) -> Command {
    let mut command = Command::cargo_bin("dkd").unwrap();
    command.current_dir(folder).env("NO_COLOR", "1");
    command
}

/// Runs and returns (code, standard output, standard error).
fn run(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output = dkd(folder).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn here() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Few images and one epoch: seconds even for an unoptimised test.
const SMALL: [&str; 4] = ["--set", "data.train_limit=128", "--set", "data.test_limit=64"];

#[test]
fn without_arguments_it_suggests_three_commands() {
    let folder = here();
    let (code, out, _) = run(folder.path(), &[]);
    assert_eq!((code, out.lines().filter(|l| l.starts_with("  dkd ")).count()), (0, 3), "{out}");
    assert!(out.lines().all(|l| l.chars().count() <= 80), "{out}");
    let (code, out, _) = run(folder.path(), &["--help"]);
    assert!(code == 0 && out.contains("Exit codes") && out.contains("Examples"), "{out}");
    let commands = [
        "train",
        "distill",
        "table",
        "search",
        "eval",
        "analyze",
        "data",
        "inspect",
        "bench",
        "report",
        "runs",
        "completions",
    ];
    let of_data = ["fetch", "list", "info"].map(|c| vec!["data", c]);
    let of_runs = ["list", "show", "compare", "resume", "clean"].map(|c| vec!["runs", c]);
    for mut command in commands.map(|c| vec![c]).into_iter().chain(of_data).chain(of_runs) {
        let example = format!("  dkd {}", command.join(" "));
        command.push("--help");
        let (code, out, err) = run(folder.path(), &command);
        assert!(code == 0 && out.contains("Usage: dkd"), "{command:?}: {out}{err}");
        let examples = out.split_once("Example").map_or("", |(_, examples)| examples);
        assert!(examples.contains(&example), "{command:?}: {out}");
    }
    let (code, out, _) = run(folder.path(), &["completions", "bash"]);
    assert!(code == 0 && out.contains("_dkd"));
}

#[test]
fn mistakes_are_explained() {
    let folder = here();
    std::fs::write(folder.path().join("c.toml"), "[train]\nepoch = 3\n").unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let cases: [(&[&str], i32, &[&str]); 22] = [
        (&["train", "--config", "c.toml"], 3, &["c.toml:2", "did you mean `epochs`"]),
        (&["train", "--model", "resnet21", "--data", "synthetic"], 3, &["resnet21", "resnet20"]),
        (&["train", "--data", "synthetic"], 1, &["--model"]),
        (
            &["train", "--model", "resnet8", "--set", "optimizer.lr=-1", "--data", "synthetic"],
            3,
            &["optimizer.lr", "-1"],
        ),
        (&["train", "--model", "resnet8", "--data", "empty"], 4, &["data_batch_1.bin", "dkd data fetch"]),
        (&["train", "--model", "resnet8", "--data", "synthetic", "--device", "cuda"], 1, &["cuda", "CPU"]),
        (&["distill", "--model", "resnet8", "--data", "synthetic"], 1, &["--teacher-model"]),
        (&["eval", "--weights", "none.safetensors", "--data", "synthetic"], 1, &["none.safetensors"]),
        (&["inspect", "resnet2O"], 1, &["resnet20"]),
        (
            &["train", "--model", "resnet8", "--dataset", "cifar11"],
            4,
            &["`cifar11`, did you mean `cifar10`?", "cifar100, synthetic"],
        ),
        (&["data", "fetch", "cifar-100"], 4, &["did you mean `cifar100`?"]),
        (
            &["train", "--model", "resnet8", "--data", "synthetic", "--threads", "18446744073709551615"],
            1,
            &["18446744073709551615 threads", "at most 1024"],
        ),
        (
            &["train", "--model", "resnet8", "--data", "synthetic", "--set", "train.batch_size=100000000"],
            4,
            &["batch size of 100000000", "at most 65536"],
        ),
        (&["train", "--model", "resnet8", "--device", "cuda:1"], 1, &["cuda:1", "CPU only"]),
        (&["bench", "--model", "resnet8", "--device", "cuda"], 1, &["`cuda`", "built for the CPU only"]),
        (&["bench", "--model", "resnet8", "--cuda-algorithms", "fastest"], 1, &["--device cuda"]),
        (&["bench", "--model", "resnet8", "--cuda-algorithms", "best"], 2, &["rules, measured, fastest"]),
        (
            &["train", "--model", "resnet8", "--data", "synthetic", "--precision", "tf32"],
            1,
            &["tf32", "--device cuda"],
        ),
        // From here on: wrong usage, which the parser of the command line refuses.
        (&["train", "--model", "resnet8", "--device", "gpu"], 2, &["`gpu`", "`cpu`", "`cuda`", "`cuda:N`"]),
        (&["bench", "--device", "cuda:9x"], 2, &["`cuda:9x`", "`cuda:N`"]),
        (&["train", "--seed", "18446744073709551615"], 2, &["--seed", "9223372036854775807"]),
        (&["eval", "--weights", "w", "--mean", "0.5,0.5", "--std", "1,1,0"], 2, &["--mean", "0.5,0.5,0.5"]),
    ];
    for (args, code, expected) in cases {
        let (got, out, err) = run(folder.path(), args);
        assert_eq!(got, code, "{args:?}: {err}");
        assert!(out.is_empty() && err.starts_with("error: "), "{args:?}: {out}{err}");
        assert!(expected.iter().all(|e| err.contains(e)), "{args:?}: {err}");
        assert!(!err.contains("panicked"), "{err}");
    }
    assert_eq!(run(folder.path(), &["train", "--modell", "x"]).0, 2);
}

/// Maps in bf16: the same bits for any number of threads, not those of f32, and told in the files.
#[test]
fn maps_may_be_kept_in_bf16() {
    let folder = here();
    let read = |name: &str, file: &str| std::fs::read(folder.path().join(name).join(file)).unwrap();
    for (out, precision, threads) in [("f32", "f32", "2"), ("one", "bf16", "1"), ("two", "bf16", "2")] {
        let mut args =
            vec!["train", "--model", "resnet8", "--data", "synthetic", "--epochs", "1", "--seed", "7"];
        args.extend(["--precision", precision, "--threads", threads, "--out", out]);
        args.extend(SMALL);
        let (code, out, err) = run(folder.path(), &args);
        assert!(code == 0 && out.contains("test accuracy"), "{out}{err}");
    }
    assert!(read("one", "last.safetensors") == read("two", "last.safetensors"));
    assert!(read("one", "last.safetensors") != read("f32", "last.safetensors"));
    let host = |name: &str| String::from_utf8(read(name, "host.json")).unwrap();
    assert!(host("one").contains("maps in bf16") && !host("f32").contains("bf16"), "{}", host("one"));
    let eval = ["eval", "--weights", "one/last.safetensors", "--data", "synthetic", "--precision", "bf16"];
    let (code, out, err) = run(folder.path(), &eval);
    assert!(code == 0 && out.contains("top-1"), "{out}{err}");
}

#[test]
fn the_same_seed_gives_the_same_files_for_any_number_of_threads() {
    let folder = here();
    let read = |name: &str, file: &str| std::fs::read(folder.path().join(name).join(file)).unwrap();
    for threads in ["1", "2", "3"] {
        let mut args =
            vec!["train", "--model", "resnet8", "--data", "synthetic", "--epochs", "1", "--seed", "7"];
        args.extend(["--threads", threads, "--out", threads]);
        args.extend(SMALL);
        let (code, out, err) = run(folder.path(), &args);
        assert!(code == 0 && out.contains("test accuracy"), "{out}{err}");
        for file in ["last.safetensors", "summary.json", "config.toml"] {
            assert!(read("1", file) == read(threads, file), "{file} with {threads} threads");
        }
    }
    for file in ["host.json", "events.jsonl", "times.json"] {
        assert!(!read("1", file).is_empty(), "{file}");
    }
    for line in String::from_utf8(read("1", "events.jsonl")).unwrap().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(event["event"].is_string(), "{line}");
    }
    let (code, _, err) =
        run(folder.path(), &["train", "--model", "resnet8", "--data", "synthetic", "--out", "1"]);
    assert!(code == 1 && err.contains("finished run"), "{err}");

    let weights = "1/last.safetensors";
    let (code, out, err) =
        run(folder.path(), &["eval", "--weights", weights, "--data", "synthetic", "--json"]);
    assert_eq!(code, 0, "{err}");
    let result: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((result["model"].as_str(), result["images"].as_u64()), (Some("resnet8"), Some(2000)));
    let mut args = vec!["eval", "--weights", weights, "--data", "synthetic", "--json"];
    args.extend(["--mean", "0.1,0.2,0.3", "--std", "0.5,0.5,0.5"]);
    let (code, out, err) = run(folder.path(), &args);
    assert_eq!(code, 0, "{err}");
    let other: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_ne!(other["loss"], result["loss"], "the options decide, not the file");
    assert!(result["top1"].as_f64().unwrap() <= result["top5"].as_f64().unwrap());
    let summary: serde_json::Value = serde_json::from_slice(&read("1", "summary.json")).unwrap();
    assert!(summary["last"].is_number() && summary.get("seconds").is_none() && summary.get("host").is_none());
}

#[test]
fn a_table_becomes_a_report() {
    let folder = here();
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/tables/cifar10-fixed.toml");
    let table = table.to_str().unwrap();
    let mut args =
        vec!["table", table, "--data", "synthetic", "--epochs", "1", "--seeds", "2", "--out", "out"];
    args.extend([
        "--set",
        "student.model=resnet8",
        "--set",
        "teacher.model=resnet8",
        "--set",
        "data.validation=16",
    ]);
    args.extend(["--rows", "none,dkd", "--results", "copy"]);
    args.extend(SMALL);
    let (code, out, err) = run(folder.path(), &args);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("not comparable") && out.contains("±") && out.lines().all(|l| l.chars().count() <= 80),
        "{out}"
    );
    let html = std::fs::read_to_string(folder.path().join("out/report.html")).unwrap();
    assert!(html.contains("generated") && html.contains("<svg") && html.contains("Seeds: 0, 1"));
    for row in ["teacher", "none", "dkd"] {
        assert!(folder.path().join(format!("copy/cifar10-fixed/{row}-1.json")).is_file(), "{row}");
    }
    let (code, again, err) = run(folder.path(), &["report", "copy", "--out", "merged"]);
    assert!(code == 0 && again.contains("±"), "{err}");
    let results = std::fs::read(folder.path().join("merged/results.json")).unwrap();
    let results: Vec<serde_json::Value> = serde_json::from_slice(&results).unwrap();
    assert_eq!(results.len(), 6);
    args.extend(["--rows", "nothing"]);
    let (code, _, err) = run(folder.path(), &["table", table, "--data", "synthetic", "--rows", "nothing"]);
    assert!(code == 1 && err.contains("none, kd-t1, dkd-t1, kd, dkd"), "{err}");
}

#[test]
fn networks_and_speed_are_shown() {
    let folder = here();
    let (code, out, _) = run(folder.path(), &["inspect"]);
    assert!(code == 0 && out.contains("resnet20") && out.lines().all(|l| l.chars().count() <= 80), "{out}");
    let (_, out, _) = run(folder.path(), &["inspect", "seed_student"]);
    assert!(out.contains("711,802") && out.lines().all(|l| l.chars().count() <= 80), "{out}");
    let (_, out, _) = run(folder.path(), &["inspect", "seed_student", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown["parameters"], 711_802);
    for mode in ["train", "infer"] {
        let args =
            ["bench", "--model", "resnet8", "--mode", mode, "--batch", "8", "--seconds", "0.1", "--json"];
        let (code, out, err) = run(folder.path(), &args);
        assert_eq!(code, 0, "{err}");
        let result: serde_json::Value = serde_json::from_str(&out).unwrap();
        for key in ["images_per_s", "gflops", "peak_fraction", "peak_gflops"] {
            assert!(result[key].as_f64().unwrap() > 0.0, "{key}: {out}");
        }
    }
    let (code, out, _) = run(folder.path(), &["data", "fetch", "synthetic"]);
    assert!(code == 0 && out.contains("generated"), "{out}");
    let (code, out, _) = run(folder.path(), &["data", "list"]);
    assert!(code == 0 && out.contains("cifar100") && out.contains("synthetic"), "{out}");
    let (code, out, _) = run(folder.path(), &["data", "info", "--data", "synthetic"]);
    assert!(code == 0 && out.contains("10000 training"), "{out}");
}
