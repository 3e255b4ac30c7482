//! `run.sh` with stubs in the place of all programs.
#![allow(clippy::unwrap_used)]

use super::prepare::script;
use crate::run::run;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// In the place of the suite and of `dkd`: tells how it was started, then does what the environment says of this stage.
const STUB: &str = r#"#!/bin/sh
if [ "$1" = merge ]; then
    shift
    echo "merged $*"
    while [ $# -gt 1 ]; do [ "$1" = --out ] && echo '{}' >"$2"; shift; done
    exit "${MERGED:-0}"
fi
[ "$1" != inspect ] || exit 0
if [ -n "${NO_DEVICE:-}" ]; then echo "error: no CUDA device" >&2; exit 1; fi
parts=$1
for a; do
    case "${before:-}" in
    --out) out=$a ;;
    --parts) parts=$a ;;
    esac
    before=$a
done
echo "$parts: $* XDG_CACHE_HOME=$XDG_CACHE_HOME LD_LIBRARY_PATH=$LD_LIBRARY_PATH CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-}"
ls "${LD_LIBRARY_PATH%%:*}"
if [ "$parts" = "${CRASHES:-none}" ]; then kill -SEGV $$; fi
echo '{}' >"$out"
if [ "$parts" = "${HANGS:-none}" ]; then exec sleep 100; fi
[ "$parts" != "${WRONG:-none}" ]
"#;

/// In the place of Python: says where NVIDIA's libraries are, or how it measured.
const PYTHON: &str = r#"#!/bin/sh
if [ "$1" = -c ]; then echo "$LIBRARIES"; exit; fi
for a; do [ "${before:-}" = --out ] && out=$a; before=$a; done
echo "python: $* LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}"
[ "${TORCH:-0}" -ne 0 ] || echo '{}' >"$out"
exit "${TORCH:-0}"
"#;

struct There {
    folder: tempfile::TempDir,
    out: PathBuf,
}

impl There {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        script(&at("run.sh")).unwrap();
        for program in ["dkd", "dkd-gpu-suite"] {
            fs::write(at(program), STUB).unwrap();
            run(Command::new("gzip").arg(at(program))).unwrap();
        }
        fs::write(at("python"), PYTHON).unwrap();
        fs::set_permissions(at("python"), fs::Permissions::from_mode(0o755)).unwrap();
        for file in ["cu13/lib/libnvrtc.so.13", "nvrtc/lib/libnvrtc.so.12", "cudnn/lib/libcudnn.so.9"] {
            let file = at("site/nvidia").join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        let out = at("out");
        Self { folder, out }
    }

    /// The script's code, and what it printed.
    fn run(&self, environment: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
        let at = |name: &str| self.folder.path().join(name);
        let mut sh = Command::new("sh");
        sh.arg(at("run.sh")).args(arguments).env("OUT", &self.out).env("PYTHON", at("python"));
        sh.env_remove("LD_LIBRARY_PATH").env("LIBRARIES", at("site"));
        // What is kept for the end, and a few seconds.
        let done = sh.env("LIMIT", "40").envs(environment.iter().copied()).output().unwrap();
        let said = String::from_utf8(done.stdout).unwrap();
        assert_eq!(String::from_utf8(done.stderr).unwrap(), "", "{said}");
        assert_eq!(fs::read_to_string(self.out.join("log")).unwrap(), said);
        (done.status.code(), said)
    }
}

/// Stages that were begun, in their order.
fn stages(said: &str) -> Vec<&str> {
    let begun = said.lines().filter(|line| line.ends_with("s are left"));
    begun.filter_map(|line| line.strip_prefix("== ")?.split(',').next()).collect()
}

#[test]
fn it_is_a_shell_script() {
    let there = There::new();
    run(Command::new("sh").arg("-n").arg(there.folder.path().join("run.sh"))).unwrap();
}

#[test]
fn what_tells_most_comes_first_and_all_is_put_together() {
    let there = There::new();
    let (code, said) = there.run(&[], &[]);
    assert_eq!(code, Some(0), "{said}");
    let order = "smoke bench profile turns cohort connections measured fastest torch-graph torch-eager goldens compare curves rest-64 rest-512 \
        rest-f32 torch-rest-graph torch-rest-eager";
    assert_eq!(stages(&said), order.split_whitespace().collect::<Vec<_>>(), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("merged smoke.json bench.json profile.json") && last.contains("rest-f32.json"));
    assert!(last.contains("--torch ") && last.ends_with("out/suite.json"), "{last}");
    let mut files: Vec<_> = fs::read_dir(&there.out).unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["log", "suite.json", "summary", "torch.json"]);
    // The newest of each library, under the name that is asked for first, for our programs only.
    assert!(said.contains("libcudnn.so\nlibnvrtc.so\n"), "{said}");
    let value = |line: &str, name: &str| {
        line.split(&format!("{name}=")).nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    let ours: Vec<_> = said.lines().filter(|line| line.contains(" XDG_CACHE_HOME=")).collect();
    assert!(
        ours.len() == 14
            && ours.iter().all(|line| value(line, "XDG_CACHE_HOME") == value(ours[0], "XDG_CACHE_HOME"))
    );
    assert!(
        ours.iter()
            .all(|line| value(line, "LD_LIBRARY_PATH").ends_with("/lib") && line.contains(" --limit "))
    );
    assert!(
        said.lines()
            .filter(|line| line.starts_with("python:"))
            .all(|line| line.ends_with("LD_LIBRARY_PATH="))
    );
    // Of what is measured in other ways than the rest.
    let of = |stage: &str| said.split(&format!("== {stage}, ")).nth(1).unwrap().lines().nth(1).unwrap();
    assert!(
        of("measured").contains("--algorithms measured") && of("fastest").contains("--algorithms fastest")
    );
    assert!(of("turns").contains("--in-turn") && !of("bench").contains("--in-turn"));
    assert!(!of("cohort").contains(" CONNECTIONS=32") && of("connections").contains(" CONNECTIONS=32"));
    let (code, said) = there.run(&[("STAGES", "cohort,torch"), ("TORCH_VARIANTS", "graph")], &[]);
    assert_eq!((code, stages(&said)), (Some(0), vec!["smoke", "cohort", "torch-graph", "torch-rest-graph"]));
}

#[test]
fn a_stage_that_crashes_or_hangs_takes_no_other_with_it() {
    let there = There::new();
    let hang = [("LIMIT", "26"), ("CRASHES", "profile,answers"), ("HANGS", "compare")];
    let (code, said) = there.run(&hang, &[]);
    assert_eq!(code, Some(1), "{said}");
    for part in
        ["profile: code 139", "compare: cut off", "curves: left out: no time", "rest-f32: left out: no time"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    // What it has found before it was cut off counts.
    let last = said.lines().last().unwrap();
    assert!(last.contains("bench.json turns.json cohort.json connections.json measured.json fastest.json goldens.json compare.json --torch"), "{said}");
    let (code, said) = there.run(&[("CRASHES", "goldens")], &[]);
    assert!(
        code == Some(1) && said.contains("smoke: code 139") && stages(&said).contains(&"rest-f32"),
        "{said}"
    );
}

#[test]
fn the_code_says_whether_all_is_well() {
    let there = There::new();
    let few = ("STAGES", "torch");
    let (code, said) = there.run(&[few, ("WRONG", "goldens")], &[]);
    assert!(code == Some(1) && said.contains("smoke: code 1"), "{said}");
    let (code, said) = there.run(&[few, ("MERGED", "1")], &[]);
    assert_eq!(code, Some(1), "{said}");
    let (code, said) = there.run(&[few, ("TORCH", "139")], &[]);
    assert!(
        code == Some(1) && said.contains("torch-graph: code 139") && said.contains("torch-eager: code 139"),
        "{said}"
    );
    // Where there is no PyTorch, it is asked once.
    let (code, said) = there.run(&[few, ("TORCH", "77")], &[]);
    assert_eq!((code, stages(&said)), (Some(0), vec!["smoke", "torch-graph"]));
    let (code, said) = there.run(&[few, ("PYTHON", "/no-python")], &[]);
    assert!(code == Some(0) && said.contains("torch: left out: there is no /no-python"), "{said}");
}

#[test]
fn without_a_device_nothing_else_is_asked() {
    let there = There::new();
    let (code, said) = there.run(&[("NO_DEVICE", "1")], &[]);
    assert_eq!((code, stages(&said)), (Some(1), vec!["smoke"]));
    assert!(said.contains("no CUDA device"), "{said}");
    let (code, said) = there.run(&[], &["--parts", "curves", "--steps", "4"]);
    assert!(code == Some(0) && said.contains("--parts curves --steps 4"), "{said}");
    assert_eq!(stages(&said), ["smoke"]);
}

#[test]
fn the_table_and_the_sanitizer_come_last() {
    let there = There::new();
    let at = |name: &str| there.folder.path().join(name);
    fs::write(at("data.pack"), "").unwrap();
    fs::write(at("dataset"), "cifar10").unwrap();
    let tools = at("tools");
    fs::create_dir(&tools).unwrap();
    let sanitizer = tools.join("compute-sanitizer");
    fs::write(&sanitizer, "#!/bin/sh\necho \"sanitizer $2\"\n").unwrap();
    fs::set_permissions(&sanitizer, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let (code, said) =
        there.run(&[("STAGES", "table,sanitizer,goldens"), ("SANITIZER", "1"), ("PATH", &path)], &[]);
    let order = ["smoke", "unpack", "goldens", "table", "sanitizer-memcheck", "sanitizer-racecheck"];
    assert_eq!((code, stages(&said)), (Some(0), order.to_vec()), "{said}");
    assert!(said.contains("sanitizer racecheck") && said.contains("--precision tf32"), "{said}");
    // A table takes as long as it takes: one that has to be cut off is no failure.
    let (code, said) = there.run(&[("STAGES", "table"), ("HANGS", "table"), ("LIMIT", "22")], &[]);
    assert!(code == Some(0) && said.contains("table: cut off"), "{said}");
}
