//! Programs that are started, watched, stopped and waited for.

use anyhow::{Context, Result, bail};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A program and its arguments.
pub type Words = Vec<String>;

/// The longest that anything here takes; a program that does not end is lost.
const LIMIT: Duration = Duration::from_secs(180);

/// Between two looks at a program.
pub const TICK: Duration = Duration::from_millis(1);

/// A program that runs. It is killed when nobody waits for it any more.
#[derive(Debug)]
pub struct Running {
    child: Child,
    started: Instant,
    /// What it writes to standard output and standard error.
    texts: Vec<JoinHandle<String>>,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it said on standard error.
    pub text: String,
}

impl Running {
    /// Starts a program in a folder.
    pub fn start(words: &[String], folder: &Path) -> Result<Self> {
        let (program, args) = words.split_first().context("there is no program to start")?;
        let mut command = Command::new(program);
        command.args(args).current_dir(folder).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start `{program}`"))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        Ok(Self { child, started: Instant::now(), texts: vec![reader(out), reader(err)] })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How long ago it was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("cannot look at a program")?.is_some())
    }

    /// Waits until `seen` or the program's end; whether it was seen.
    pub fn until(&mut self, mut seen: impl FnMut(&Self) -> bool) -> Result<bool> {
        loop {
            if seen(self) {
                return Ok(true);
            }
            if self.is_over()? {
                return Ok(false);
            }
            if self.age() > LIMIT {
                bail!("what was waited for does not happen within {} s", LIMIT.as_secs());
            }
            std::thread::sleep(TICK);
        }
    }

    /// Sends a signal by its name. A program that has ended by now does not mind.
    pub fn signal(&self, name: &str) -> Result<()> {
        let id = self.child.id().to_string();
        let mut kill = Command::new("kill");
        kill.args([&format!("-{name}"), &id]).stderr(Stdio::null());
        kill.status().context("cannot start `kill`")?;
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("cannot kill a program")
    }

    /// Whether the program has a handler of its own for a signal; where the system does not tell (no `/proc`), it is believed
    /// to have one.
    pub fn listens(&self, signal: u32) -> bool {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())) else {
            return !Path::new("/proc/self/status").exists();
        };
        let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
        let mask = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        mask >> (signal - 1) & 1 == 1
    }

    /// Waits for the end.
    pub fn end(mut self) -> Result<Ended> {
        self.until(|_| false)?;
        let status = self.child.wait().context("cannot wait for a program")?;
        let mut texts = self.texts.drain(..).map(|text| text.join().unwrap_or_default());
        let (out, text) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        Ok(Ended { code: status.code(), out, text })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a program that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads all of a pipe in the background, so that a program never waits for its reader.
fn reader(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What could be read is all there is to know.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Ended {
    /// Whether it ended with this code, and everything in `said` is in what it said or printed.
    pub fn expect(&self, code: i32, said: &[&str]) -> Result<()> {
        if self.code != Some(code) {
            let found = self.code.map_or_else(|| "by a signal".to_owned(), |c| format!("with code {c}"));
            bail!("ended {found}, expected code {code}; it said: {}", self.said());
        }
        for word in said {
            if !self.text.contains(word) && !self.out.contains(word) {
                bail!("does not say `{word}`; it said: {}", self.said());
            }
        }
        self.expect_not(&["panicked"])
    }

    /// Whether nothing of this was said.
    pub fn expect_not(&self, words: &[&str]) -> Result<()> {
        match words.iter().find(|w| self.text.contains(**w)) {
            Some(word) => bail!("says `{word}`: {}", self.said()),
            None => Ok(()),
        }
    }

    fn said(&self) -> String {
        format!("{}{}", self.text, self.out)
    }

    /// The number that follows `words` in what it said.
    pub fn number_after(&self, words: &str) -> Result<u64> {
        let rest = self.text.split_once(words).map(|(_, rest)| rest);
        let digits = rest.map(|r| r.chars().take_while(char::is_ascii_digit).collect::<String>());
        let number = digits.and_then(|d| d.parse().ok());
        number.with_context(|| format!("says no number after `{words}`: {}", self.text))
    }
}

/// Whether a program is there to be started.
pub fn is_there(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(text: &str) -> Running {
        let words = ["sh", "-c", text].map(str::to_owned);
        Running::start(&words, Path::new("/")).unwrap()
    }

    #[test]
    fn ends_are_told_apart() {
        let ended = sh("echo 12 apples; echo in 7 boxes >&2; exit 3").end().unwrap();
        ended.expect(3, &["apples", "boxes"]).unwrap();
        assert!(ended.expect(0, &[]).unwrap_err().to_string().contains("code 3"));
        assert!(ended.expect(3, &["pears"]).unwrap_err().to_string().contains("pears"));
        assert!(ended.expect_not(&["boxes"]).is_err());
        assert_eq!(ended.number_after("in ").unwrap(), 7);
        let mut sleeper = sh("sleep 100");
        assert!(!sleeper.is_over().unwrap());
        sleeper.kill().unwrap();
        assert_eq!(sleeper.end().unwrap().code, None);
    }

    #[test]
    fn handlers_are_seen() {
        let mut trap = sh("trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done");
        assert!(trap.until(|r| r.listens(15)).unwrap());
        trap.signal("TERM").unwrap();
        assert_eq!(trap.end().unwrap().code, Some(9));
    }
}
