//! Logs written and read again, what is derived from them, and results from them alone.
#![allow(clippy::unwrap_used)]

mod derived;
mod log;
mod rebuild;
mod tensorboard;
mod tfevents;

use dkd_trainer::{Event, Metrics, TermValue};

fn names(rows: &[&str]) -> Vec<String> {
    rows.iter().map(|r| (*r).to_owned()).collect()
}

fn started(rows: &[&str], epochs: usize, batches: usize) -> Event {
    Event::Started { rows: names(rows), epochs, batches, images: 20, seed: 3 }
}

fn step(row: &str, epoch: usize, step: u64, loss: f64) -> Event {
    Event::Step {
        row: row.to_owned(),
        epoch,
        step,
        images: 10,
        lr: 0.1,
        loss,
        terms: [("ce", loss), ("lr", 7.0)]
            .map(|(name, value)| TermValue { name: name.to_owned(), value })
            .to_vec(),
        gradient_norm: Some(2.5),
    }
}

fn evaluation(row: &str, epoch: usize, split: &str, top1: f64) -> Event {
    let metrics = Metrics { top1, top5: 90.0, loss: 1.25, images: 5 };
    Event::Evaluation { row: row.to_owned(), epoch, split: split.to_owned(), metrics }
}

/// One epoch of two steps of every row: its steps, then its means and evaluations.
fn epoch(rows: &[&str], epoch: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let first = 2 * (epoch as u64 - 1);
    for at in [first, first + 1] {
        events.extend(rows.iter().map(|row| step(row, epoch, at, 1.0 / (at + 1) as f64)));
    }
    for row in rows {
        let loss = if epoch == 2 { f64::INFINITY } else { 0.5 };
        events.push(Event::Epoch { row: (*row).to_owned(), epoch, loss, top1: 30.0 });
        events.push(evaluation(row, epoch, "validation", 40.0 + epoch as f64));
        events.push(evaluation(row, epoch, "test", 50.0 + epoch as f64));
    }
    events
}

/// A teacher of one epoch, then two students of `epochs` epochs.
fn table(epochs: usize) -> Vec<Event> {
    let (teacher, students) = (["teacher"], ["a", "b,\"c\""]);
    let mut events = vec![started(&teacher, 1, 2)];
    events.extend(epoch(&teacher, 1));
    events.extend([Event::Finished { rows: names(&teacher) }, started(&students, epochs, 2)]);
    (1..=epochs).for_each(|e| events.extend(epoch(&students, e)));
    events.push(Event::Finished { rows: names(&students) });
    events
}
