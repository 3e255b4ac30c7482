//! Which feature map of the student goes with which of the teacher.
use std::collections::BTreeMap;

use crate::error::{Error, Result, listed};
use crate::{RequiredTaps, Setup};

/// Feature maps of the two networks that a loss compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The student's tap.
    pub student: String,
    /// Its shape without the batch: [channels, height, width], or `[n]`.
    pub student_dims: Vec<usize>,
    /// The teacher's tap.
    pub teacher: String,
    /// Its shape.
    pub teacher_dims: Vec<usize>,
}

impl Pair {
    /// Height and width of both maps.
    pub fn sizes(&self) -> ((usize, usize), (usize, usize)) {
        let size = |dims: &[usize]| match *dims {
            [_, height, width] => (height, width),
            _ => (1, 1),
        };
        (size(&self.student_dims), size(&self.teacher_dims))
    }

    /// What is read of `pairs`.
    pub fn taps(pairs: &[Self]) -> RequiredTaps {
        let of = |side: fn(&Self) -> &String| pairs.iter().map(|p| side(p).clone()).collect();
        RequiredTaps { student: of(|p| &p.student), teacher: of(|p| &p.teacher) }
    }
}

/// The tap `name` of both networks.
///
/// # Errors
/// [`Error::MissingTap`].
pub(crate) fn stage(setup: &Setup, name: &str) -> Result<Pair> {
    let dims = |side, taps: &BTreeMap<String, Vec<usize>>| {
        taps.get(name).cloned().ok_or_else(|| Error::MissingTap {
            side,
            name: name.into(),
            available: listed(taps.keys().map(String::as_str)),
        })
    };
    Ok(Pair {
        student: name.to_owned(),
        student_dims: dims("student", setup.student_taps)?,
        teacher: name.to_owned(),
        teacher_dims: dims("teacher", setup.teacher_taps)?,
    })
}

/// The taps `kind.1`, `kind.2`, … as long as both networks have them: the outputs of their stages, the stem (number 0)
/// left out, as the reference pairs them. Further stages of the longer network are not used.
///
/// # Errors
/// [`Error::MissingTap`] when there is not even the first.
pub(crate) fn pairs(setup: &Setup, kind: &str) -> Result<Vec<Pair>> {
    let mut pairs = vec![stage(setup, &format!("{kind}.1"))?];
    for number in 2.. {
        match stage(setup, &format!("{kind}.{number}")) {
            Ok(pair) => pairs.push(pair),
            Err(_) => break,
        }
    }
    Ok(pairs)
}
