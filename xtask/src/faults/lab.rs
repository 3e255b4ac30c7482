//! Where the trials take place, side by side, and what they are compared with.

use super::files::{self, Prints};
use super::random::Random;
use super::setting;
use super::trial::{Lost, Trial};
use anyhow::{Context, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A family ends early after so many losses: more of the same help nobody, and each keeps its folder.
const MAX_LOST: usize = 3;

/// Most trials at a time: they watch each other's machine for moments of milliseconds.
const MAX_WORKERS: usize = 4;

/// The run that nothing disturbed.
#[derive(Debug)]
pub struct Reference {
    /// Its folder.
    pub out: PathBuf,
    /// What came out.
    pub outcome: Prints,
    /// Seconds until its log began.
    pub start_s: f64,
    /// Seconds to its end.
    pub whole_s: f64,
}

/// What all trials share.
#[derive(Debug)]
pub struct Lab {
    dkd: PathBuf,
    folder: PathBuf,
    seed: u64,
    fraction: f64,
    /// The run to compare with.
    pub reference: Reference,
}

/// What a number of trials gave.
#[derive(Debug)]
pub struct Tally<T> {
    /// What each saw that ended as promised.
    pub seen: Vec<T>,
    /// Those that did not.
    pub lost: Vec<Lost>,
}

impl Lab {
    /// A lab in a new folder. The program is copied there: a build meanwhile changes nothing, and other users may start it.
    pub fn new(program: &Path, seed: u64, fraction: f64) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("dkd-faults-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
        let dkd = folder.join("dkd");
        std::fs::copy(program, &dkd).with_context(|| format!("cannot copy {}", program.display()))?;
        let reference = reference(&dkd, folder.join("reference"))?;
        Ok(Self { dkd, folder, seed, fraction, reference })
    }

    /// Where all trials are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many of `full` trials are made.
    pub fn count(&self, full: usize) -> usize {
        ((full as f64 * self.fraction).round() as usize).max(1)
    }

    /// A folder beside those of the trials, for what several of them use.
    pub fn shared(&self, name: &str) -> Result<Trial> {
        Trial::new(&self.dkd, self.folder.join(name))
    }

    /// The random numbers of a trial.
    pub fn random(&self, family: &str, i: usize) -> Random {
        Random::new(self.seed, family, i)
    }

    /// Makes trials side by side, as many at a time as there are cores.
    pub fn each<T: Send>(
        &self,
        family: &str,
        count: usize,
        work: impl Fn(&mut Trial, &mut Random, usize) -> Result<T> + Sync,
    ) -> Tally<T> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.spread(cores.min(MAX_WORKERS), family, count, work)
    }

    /// Makes trials one after the other: those that measure, or take all of the machine.
    pub fn in_turn<T: Send>(
        &self,
        family: &str,
        count: usize,
        work: impl Fn(&mut Trial, &mut Random, usize) -> Result<T> + Sync,
    ) -> Tally<T> {
        self.spread(1, family, count, work)
    }

    fn spread<T: Send>(
        &self,
        workers: usize,
        family: &str,
        count: usize,
        work: impl Fn(&mut Trial, &mut Random, usize) -> Result<T> + Sync,
    ) -> Tally<T> {
        let (next, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let worker = || {
            let mut own = Tally { seen: Vec::new(), lost: Vec::new() };
            while lost.load(Ordering::Relaxed) < MAX_LOST {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    break;
                }
                match self.once(family, i, &work) {
                    Ok(seen) => own.seen.push(seen),
                    Err(what) => {
                        lost.fetch_add(1, Ordering::Relaxed);
                        own.lost.push(what);
                    }
                }
            }
            own
        };
        let mut all = Tally { seen: Vec::new(), lost: Vec::new() };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..workers.min(count)).map(|_| scope.spawn(worker)).collect();
            for worker in workers {
                match worker.join() {
                    Ok(own) => {
                        all.seen.extend(own.seen);
                        all.lost.extend(own.lost);
                    }
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        all
    }

    /// One trial; its folder goes if it ended as promised.
    fn once<T>(
        &self,
        family: &str,
        i: usize,
        work: impl Fn(&mut Trial, &mut Random, usize) -> Result<T>,
    ) -> Result<T, Lost> {
        let folder = self.folder.join(format!("{family}-{i}"));
        let failed =
            |e: anyhow::Error| Lost { what: format!("{e:#}"), folder: folder.clone(), commands: Vec::new() };
        let mut trial = Trial::new(&self.dkd, folder.clone()).map_err(failed)?;
        let mut random = self.random(family, i);
        match work(&mut trial, &mut random, i) {
            Ok(seen) => {
                std::fs::remove_dir_all(&folder).map_err(|e| failed(e.into()))?;
                Ok(seen)
            }
            Err(e) => Err(trial.lost(format!("{e:#}"))),
        }
    }

    /// Removes everything: nothing was lost.
    pub fn close(self) -> Result<()> {
        let folder = self.folder;
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
    }
}

/// Trains the table once without any disturbance.
fn reference(dkd: &Path, folder: PathBuf) -> Result<Reference> {
    let mut trial = Trial::new(dkd, folder)?;
    let out = trial.path("out");
    let words = setting::table(&trial, &[])?;
    let mut running = trial.start(&words)?;
    running.until(|_| setting::log(&out).exists())?;
    let start_s = running.age().as_secs_f64();
    running.until(|_| false)?;
    let whole_s = running.age().as_secs_f64();
    running.end()?.expect(0, &[]).context("the run without any disturbance")?;
    Ok(Reference { outcome: files::outcome(&out)?, out, start_s, whole_s })
}
