//! One trial: a folder, the commands that were given in it, and what was lost.

use super::process::{Ended, Running, Words};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// A trial under way.
#[derive(Debug)]
pub struct Trial {
    dkd: PathBuf,
    /// Where it takes place.
    pub folder: PathBuf,
    /// What was done, as a shell would read it.
    commands: Vec<String>,
}

/// A trial that did not end as promised.
#[derive(Debug)]
pub struct Lost {
    /// What was lost.
    pub what: String,
    /// Where everything still lies.
    pub folder: PathBuf,
    /// The commands of the trial.
    pub commands: Vec<String>,
}

impl Trial {
    /// A trial of the program `dkd` in a new folder.
    pub fn new(dkd: &Path, folder: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let commands = vec![format!("cd {}", quoted(&folder.display().to_string()))];
        Ok(Self { dkd: dkd.to_owned(), folder, commands })
    }

    /// A file or folder of the trial.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// `dkd` with arguments.
    pub fn dkd(&self, args: &[&str]) -> Words {
        let program = self.dkd.display().to_string();
        std::iter::once(program).chain(args.iter().map(|a| (*a).to_owned())).collect()
    }

    /// Writes down what was done without a command.
    pub fn note(&mut self, what: &str) {
        self.commands.push(format!("# {what}"));
    }

    /// Starts a command.
    pub fn start(&mut self, words: &[String]) -> Result<Running> {
        self.commands.push(words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(" "));
        Running::start(words, &self.folder)
    }

    /// Runs a command to its end.
    pub fn run(&mut self, words: &[String]) -> Result<Ended> {
        self.start(words)?.end()
    }

    /// What is reported of a trial that went wrong.
    pub fn lost(self, what: String) -> Lost {
        Lost { what, folder: self.folder, commands: self.commands }
    }
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_pasted() {
        let folder = tempfile::tempdir().unwrap();
        let mut trial = Trial::new(Path::new("echo"), folder.path().join("new")).unwrap();
        let words = trial.dkd(&["it's", "a=1", ""]);
        assert_eq!(trial.run(&words).unwrap().out, "it's a=1 \n");
        trial.note("nothing more");
        let lost = trial.lost("x".to_owned());
        assert_eq!(lost.commands[1..], ["echo 'it'\\''s' a=1 ''", "# nothing more"]);
    }
}
