//! The command line as a whole.

use super::*;
use clap::CommandFactory;

fn parse(args: &[&str]) -> Result<Cli, String> {
    Cli::try_parse_from(std::iter::once(&"dkd").chain(args)).map_err(|e| e.to_string())
}

#[test]
fn the_options_fit_together() {
    Cli::command().debug_assert();
}

#[test]
fn three_numbers_make_a_normalisation() {
    let eval = ["eval", "--weights", "w", "--mean", "0.5, 0,-1e-3", "--std", "0.25,0.5,1"];
    let Some(Command::Eval(args)) = parse(&eval).unwrap().command else { panic!("another command") };
    assert_eq!((args.mean, args.std), (Some([0.5, 0.0, -1e-3]), Some([0.25, 0.5, 1.0])));
    for (text, expected) in [
        ("0.5,0.5", "2 numbers were given"),
        ("1,2,3,4", "4 numbers were given"),
        ("0.5", "such as 0.5,0.5,0.5"),
        ("0.5,x,0.5", "`x` is not a number"),
        ("0.5,,0.5", "`` is not a number"),
        ("0.5,nan,0.5", "`nan` is not finite"),
        ("0.5,0.5,1e99", "`1e99` is not finite"),
    ] {
        for option in ["--mean", "--std"] {
            let message = parse(&["eval", "--weights", "w", option, text]).unwrap_err();
            assert!(message.contains(option) && message.contains(expected), "{message}");
        }
    }
    for text in ["0.5,0,0.5", "-1,1,1"] {
        let message = parse(&["eval", "--weights", "w", "--std", text]).unwrap_err();
        assert!(message.contains("above 0"), "{message}");
    }
    assert!(parse(&["eval", "--weights", "w", "--mean", "0.5", "0.5", "0.5"]).is_err());
}

#[test]
fn devices_have_names() {
    for known in ["cpu", "cuda", "cuda:0", "cuda:1", "cuda:12"] {
        assert_eq!(parse(&["inspect", "--device", known]).unwrap().common.device, known);
    }
    for unknown in ["gpu", "CPU", "cuda:", "cuda:9x", "cuda:+1", "cuda1", "cuda:99999999999"] {
        let message = parse(&["inspect", "--device", unknown]).unwrap_err();
        let expected = ["`cpu`", "`cuda`", "`cuda:N`", &*format!("`{unknown}`")];
        assert!(expected.iter().all(|e| message.contains(e)), "{message}");
    }
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    let most = i64::MAX.to_string();
    let over = (i64::MAX as u64 + 1).to_string();
    for args in [&["train"][..], &["distill"], &["table", "t.toml"]] {
        let with = |seed: &str| parse(&[args, &["--seed", seed]].concat());
        assert!(with(&most).is_ok() && with("0").is_ok());
        for seed in [&*over, "18446744073709551615"] {
            let message = with(seed).unwrap_err();
            assert!(message.contains("--seed") && message.contains(&format!("0..={most}")), "{message}");
        }
        let message = parse(&[args, &["--epochs", "4294967296"]].concat()).unwrap_err();
        assert!(message.contains("0..=4294967295"), "{message}");
    }
    let message = parse(&["table", "t.toml", "--seeds", "0"]).unwrap_err();
    assert!(message.contains("--seeds") && message.contains("1..="), "{message}");
    for batch in ["0", "65537"] {
        let message = parse(&["bench", "--batch", batch]).unwrap_err();
        assert!(message.contains("1..=65536"), "{message}");
    }
}

#[test]
fn records_are_chosen_by_name() {
    use dkd_trainer::record::Derive;
    let derive = |csv, tensorboard| Derive { csv, tensorboard };
    for (args, expected) in [
        (&["train"][..], derive(true, false)),
        (&["train", "--record", "tensorboard"], derive(false, true)),
        (&["train", "--record", "csv,tensorboard"], derive(true, true)),
        (&["train", "--record", "none"], derive(false, false)),
    ] {
        let Some(Command::Train(train)) = parse(args).unwrap().command else { panic!("another command") };
        assert_eq!(train.resume.record, expected);
    }
    for (text, unknown) in [("cvs", "`cvs`"), ("csv,none", "`none`"), ("", "``")] {
        let message = parse(&["table", "t.toml", "--record", text]).unwrap_err();
        assert!(message.contains(&format!("there is no record {unknown}")), "{message}");
    }
}
