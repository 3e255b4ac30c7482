//! Writing in the background.

use super::file::encode;
use super::policy::Policy;
use super::snapshot::Snapshot;
use super::store::Store;
use crate::Result;
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread::JoinHandle;

/// How far an event log is, with the file, so that the writer can bring it to the disk first: a checkpoint never counts lines
/// that a power cut could still take away.
#[derive(Debug)]
pub struct LogMark {
    /// Bytes so far.
    pub bytes: u64,
    /// The log.
    pub file: File,
}

struct Job {
    snapshot: Snapshot,
    log: Option<File>,
    pinned: Option<u64>,
}

/// A thread that writes checkpoints, one at a time. The trainer hands over a copy of its state and goes on.
#[derive(Debug)]
pub struct Writer {
    jobs: Option<SyncSender<Job>>,
    outcomes: Receiver<Result<PathBuf>>,
    thread: Option<JoinHandle<()>>,
    /// Jobs whose outcome has not been read.
    open: usize,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn new(store: Store, policy: Policy) -> Result<Self> {
        let (jobs, receiver) = sync_channel(0);
        let (sender, outcomes) = channel();
        let work = move || work(&store, &policy, &receiver, &sender);
        let thread = std::thread::Builder::new().name("dkd-checkpoint".to_owned()).spawn(work);
        let thread = thread.map_err(|source| dkd_files::Error::Io {
            action: "start a thread for",
            path: PathBuf::from("checkpoints"),
            source,
        })?;
        Ok(Self { jobs: Some(jobs), outcomes, thread: Some(thread), open: 0 })
    }

    /// Whether a checkpoint offered now would be taken.
    pub fn is_idle(&mut self) -> bool {
        self.open == 0
    }

    /// Hands a snapshot over; with `wait`, also if the one before is still being written. Says whether it was taken. The
    /// checkpoint with `pinned` batches done stays, whatever the policy says.
    pub fn offer(&mut self, snapshot: Snapshot, log: Option<File>, pinned: Option<u64>, wait: bool) -> bool {
        let Some(jobs) = &self.jobs else { return false };
        let job = Job { snapshot, log, pinned };
        let taken = if wait {
            jobs.send(job).is_ok()
        } else {
            !matches!(jobs.try_send(job), Err(TrySendError::Full(_) | TrySendError::Disconnected(_)))
        };
        self.open += usize::from(taken);
        taken
    }

    /// What became of the checkpoints that have been written since the last call.
    pub fn outcomes(&mut self) -> Vec<Result<PathBuf>> {
        let done: Vec<_> = self.outcomes.try_iter().collect();
        self.open -= done.len();
        done
    }

    /// Waits until everything handed over is on the disk, or has failed.
    pub fn wait(&mut self) -> Vec<Result<PathBuf>> {
        let mut all = Vec::new();
        while self.open > 0 {
            match self.outcomes.recv() {
                Ok(outcome) => {
                    self.open -= 1;
                    all.push(outcome);
                }
                Err(_) => break,
            }
        }
        all
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread ends when nothing more can come.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has left no file behind and was reported on standard error.
            let _ = thread.join();
        }
    }
}

fn work(store: &Store, policy: &Policy, jobs: &Receiver<Job>, outcomes: &Sender<Result<PathBuf>>) {
    let mut scores = if policy.keep_best { store.scores() } else { HashMap::new() };
    while let Ok(job) = jobs.recv() {
        let header = &job.snapshot.header;
        let place = header.place;
        if let Some(score) = header.score() {
            scores.insert((place.teacher, place.done), score);
        }
        let outcome = write(store, &job).and_then(|path| {
            store.prune(policy, place, job.pinned, |done| scores.get(&(place.teacher, done)).copied())?;
            Ok(path)
        });
        if outcomes.send(outcome).is_err() {
            return;
        }
    }
}

fn write(store: &Store, job: &Job) -> Result<PathBuf> {
    let path = store.path(job.snapshot.header.place);
    if let Some(log) = &job.log {
        let sync = |source| dkd_files::Error::Io { action: "write", path: path.clone(), source };
        log.sync_data().map_err(sync)?;
    }
    dkd_files::atomic_write_bytes(&path, &encode(&job.snapshot)?)?;
    Ok(path)
}
