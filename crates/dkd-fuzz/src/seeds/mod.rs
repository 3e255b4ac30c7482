//! Inputs to begin with: what the program writes, what others might, and both with damages.
//!
//! `cargo run -p dkd-fuzz --example seeds` writes them to `fuzz/corpus`; a test compares them with what is there.

mod archive;
mod config;
mod pytorch;
mod records;
mod tensors;

pub use archive::archive;
pub use config::config;
pub use pytorch::pytorch;
pub use records::{events, result};
pub use tensors::{checkpoint, weights};

use crate::Seed;

fn seed(name: &str, bytes: impl Into<Vec<u8>>) -> Seed {
    Seed { name: name.to_owned(), bytes: bytes.into() }
}

/// Cuts off the end of a seed at four places, and turns one bit at four.
fn damaged(whole: &Seed) -> Vec<Seed> {
    let name = whole.name.trim_start_matches("ok-");
    let length = whole.bytes.len();
    let places = [length / 7, length / 3, length / 2, length - 1];
    let cut = |at: usize| seed(&format!("cut-{name}-{at}"), &whole.bytes[..at]);
    let turned = |(i, at): (usize, usize)| {
        let mut bytes = whole.bytes.clone();
        bytes[at] ^= 1 << (2 * i);
        seed(&format!("bit-{name}-{at}"), bytes)
    };
    places.into_iter().map(cut).chain(places.into_iter().enumerate().map(turned)).collect()
}

/// The first seeds with their damages, then the others as they are.
fn with_damages(begin: Vec<Seed>, others: Vec<Seed>) -> Vec<Seed> {
    let damages: Vec<Seed> = begin.iter().flat_map(damaged).collect();
    [begin, damages, others].concat()
}

/// Files of images: one of CIFAR-10 with two records, one of CIFAR-100 with one.
pub fn cifar() -> Vec<Seed> {
    let image = |from: usize| (0..3072).map(move |i| ((i * 7 + from) % 251) as u8);
    let ten = |labels: [u8; 2]| -> Vec<u8> {
        labels.into_iter().flat_map(|label| std::iter::once(label).chain(image(label.into()))).collect()
    };
    let hundred = |labels: [u8; 2]| -> Vec<u8> { labels.into_iter().chain(image(3)).collect() };
    let begin = vec![seed("ok-cifar10", ten([0, 9])), seed("ok-cifar100", hundred([19, 99]))];
    let others = vec![
        seed("bad-empty", []),
        seed("bad-label-of-the-first", ten([10, 0])),
        seed("bad-label-of-the-last", ten([0, 255])),
        seed("bad-fine-label", hundred([0, 100])),
        seed("ok-coarse-label-is-not-read", hundred([255, 0])),
        seed("bad-one-byte-more", [ten([1, 2]), vec![0]].concat()),
    ];
    with_damages(begin, others)
}
